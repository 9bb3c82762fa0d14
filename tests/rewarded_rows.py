"""What a training with rewards needs, made without the steps before it: prompts, data artifacts, settings, rewards."""

from pathlib import Path

from training_inputs import TRAINING

from steps.artifacts import new_artifact
from steps.params.reward_training import RewardTraining
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.training import TrainingParams
from steps.tasks import grpo

LETTERS = """
def letters(completions, log_extra=None, log_metric=None, **kwargs):
    '''The share of letters among the characters.'''
    texts = [completion[-1]["content"] for completion in completions]
    if log_extra:
        log_extra("first", [text[:1] for text in texts])
    if log_metric:
        log_metric("characters", sum(map(len, texts)) / len(texts))
    return [sum(letter.isalpha() for letter in text) / max(1, len(text)) for text in texts]


def level(completions, level, ground_truth, **kwargs):
    '''What the row says, for rows with a ground truth.'''
    return [None if truth is None else one / 10 for one, truth in zip(level, ground_truth)]
"""


def prompt_rows(count: int) -> list[dict]:
    """Make questions of different lengths, with a column for the rewards."""
    return [
        {"problem": "Count to " + " and ".join([str(number)] * (1 + number % 3)), "solution": str(number),
         "level": number % 5, "images": f"no image {number}"}
        for number in range(count)
    ]  # fmt: skip


def write_prompts(folder: Path, tokenizer, **splits: list[dict]) -> Path:
    """Make a data artifact of rows as a user gives them, rendered by the tokenizer itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = grpo.Columns()
    with new_artifact(folder, "data") as draft:
        (draft / "tokens").mkdir()
        (draft / "rows").mkdir()
        for name, rows in splits.items():
            made = [grpo.canonical(row, columns) for row in rows]
            prompts = [grpo.training_row(row, columns)["prompt"] for row in made]
            ids = [
                tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=True)["input_ids"]
                for one in prompts
            ]
            pq.write_table(pa.Table.from_pylist(made, schema=grpo.SCHEMA), draft / f"rows/{name}.parquet")
            table = pa.table({"prompt_ids": pa.array(ids, pa.list_(pa.int32()))})
            pq.write_table(table, draft / f"tokens/{name}.parquet")
    return folder


def letters(folder: Path, text: str = LETTERS) -> str:
    """Write a file of rewards, and name its first function."""
    file = folder / "rewards.py"
    file.write_text(text)
    name = text.split("def ", 1)[1].split("(", 1)[0]
    return f"{file}:{name}"


def settings_with(reward: str, training: dict | None = None, rewarded: dict | None = None, **changes):
    """Make settings of 4 completions of up to 8 tokens to each of 2 prompts a step, without evaluations."""
    asked = {"num_generations": 4, "max_completion_length": 8, "num_iterations": 1, **(rewarded or {})}
    made = {**TRAINING, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_steps": 3,
            "warmup_steps": 0, "evaluation_strategy": "no", "metric_for_best_model": "reward",
            **(training or {})}  # fmt: skip
    rewards = changes.pop("rewards", None) or RewardSettings(reward_funcs=reward)
    return FinetuneSettings(
        pipeline="grpo_chat_completion", training=TrainingParams(**made), max_length=64,
        rewarded=RewardTraining(**asked), rewards=rewards, **{"lora": {"apply_lora": False}, **changes},
    )  # fmt: skip
