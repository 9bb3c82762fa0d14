"""Training with rewards that is interrupted: it ends like an unbroken one, wherever it was interrupted, or says why."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from grids import long_but
from rewarded_rows import LETTERS, letters, prompt_rows, settings_with, write_prompts
from test_grpo_training import same_weights, table
from training_inputs import train

from steps.errors import Preempted, UserError
from steps.params.lora import LoraParams
from steps.params.settings import RewardSettings
from steps.params.training import CheckpointParams
from steps.rewards.asked import digests_of

pytestmark = pytest.mark.slow


@pytest.fixture
def prompts(tmp_path, tokenizer, local_root):
    rows = prompt_rows(16)
    return write_prompts(tmp_path / "data", tokenizer, train=rows[:12], validation=rows[12:])


def saved(root: Path, step: int | str) -> Path:
    [found] = (root / "checkpoints").glob(f"*/*/checkpoint-{step}")
    return found


def figures(history: dict) -> list[dict]:
    return [{name: value for name, value in one.items() if name not in ("step_time", "num_tokens")}
            for one in history["points"]]  # fmt: skip


RESUMED = {
    "iterations": ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "max_steps": 8},
                   {"num_iterations": 2, "temperature": 0.9}, False),
    "passes-lora": ({"max_steps": 8}, {"steps_per_generation": 3, "num_iterations": 2}, True),
    # An epoch of 3 generations of 4 prompts with 2 passes each: 6 steps, of which no prompt is in two.
    "epochs": ({"num_train_epochs": 2, "max_steps": -1}, {"steps_per_generation": 2, "beta": 0.0}, False),
    "rloo": ({"gradient_accumulation_steps": 2, "max_steps": 6}, {"method": "rloo", "num_iterations": 3}, False),
}  # fmt: skip


@pytest.mark.parametrize("case", long_but(["passes-lora", "rloo"], RESUMED))
def test_it_resumes_from_any_step_as_if_unbroken(model, prompts, tmp_path, case):
    training, rewarded, lora = RESUMED[case]
    kept = CheckpointParams(save_steps=1, keep_checkpoints="true", save_total_limit=20)
    lora = LoraParams(apply_lora=lora)
    settings = settings_with(letters(tmp_path), training, rewarded, lora=lora, checkpoints=kept)
    whole = train(settings, model, prompts, tmp_path / "whole")
    root = tmp_path / "root"
    steps = range(1, whole["steps"])
    assert len(steps) > 4
    for step in steps:
        moved = shutil.copytree(saved(root, step), tmp_path / f"from/checkpoint-{step}")
        out = tmp_path / f"resumed-{step}"
        again = CheckpointParams(resume_from_checkpoint=str(moved), checkpoint_dir=str(tmp_path / f"kept-{step}"))
        history = train(settings.model_copy(update={"checkpoints": again}), model, prompts, out)
        assert history["resumed_from"] == step
        assert same_weights(out, tmp_path / "whole"), step
        assert figures(history) == figures(whole), step
        assert table(out) == table(tmp_path / "whole"), step


STOPPING = """
import os, subprocess

def letters(completions, trainer_state, log_extra=None, **kwargs):
    texts = [completion[-1]["content"] for completion in completions]
    if os.environ.get("STOP_AT") == str(trainer_state.global_step):
        subprocess.run(["kill", "-TERM", str(os.getpid())])
    return [sum(letter.isalpha() for letter in text) / max(1, len(text)) for text in texts]
"""


@pytest.mark.parametrize("minutes", [0, 1e-9], ids=["asked", "by-time"])
def test_it_goes_on_after_it_was_stopped(model, prompts, tmp_path, monkeypatch, minutes):
    reward = letters(tmp_path, STOPPING)
    training = {"max_steps": 7, "evaluation_strategy": "steps", "eval_steps": 3}
    settings = settings_with(reward, training, {"num_iterations": 2})
    whole = train(settings, model, prompts, tmp_path / "whole")
    shutil.rmtree(tmp_path / "root")
    kept = CheckpointParams(save_minutes=minutes)
    asked = settings.model_copy(update={"checkpoints": kept})
    for stop in ("0", "2", "4"):  # the generations of steps 1, 3 and 5
        monkeypatch.setenv("STOP_AT", stop)
        with pytest.raises(Preempted):
            train(asked, model, prompts, tmp_path / "ours")
        assert not (tmp_path / "ours/tuned").exists()
    monkeypatch.setenv("STOP_AT", "")
    history = train(asked, model, prompts, tmp_path / "ours")
    assert history["resumed_from"] == 5
    assert figures(history) == figures(whole)
    assert [one["reward"] for one in history["evaluations"]] == [one["reward"] for one in whole["evaluations"]]
    assert history["best"] == whole["best"]
    assert same_weights(tmp_path / "ours", tmp_path / "whole")
    assert table(tmp_path / "ours") == table(tmp_path / "whole")
    assert not list((tmp_path / "root").rglob("completions"))


def test_another_division_of_a_step_resumes_within_a_generation(model, prompts, tmp_path):
    kept = CheckpointParams(save_steps=1, keep_checkpoints="true")
    settings = settings_with(letters(tmp_path), {"max_steps": 6}, {"num_iterations": 3}, checkpoints=kept)
    train(settings, model, prompts, tmp_path / "whole")
    moved = shutil.copytree(saved(tmp_path / "root", 4), tmp_path / "from/checkpoint-4")
    smaller = settings.training.model_copy(update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4})
    again = CheckpointParams(resume_from_checkpoint=str(moved))
    train(settings.model_copy(update={"training": smaller, "checkpoints": again}), model, prompts, tmp_path / "ours")
    assert table(tmp_path / "ours") == table(tmp_path / "whole")
    from test_grpo_training import weights

    ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "whole")
    assert all(ours[name].allclose(theirs[name], atol=1e-5) for name in theirs)


def test_a_checkpoint_of_another_kind_of_training_is_told(model, prompts, tmp_path):
    kept = CheckpointParams(save_steps=1, keep_checkpoints="true")
    settings = settings_with(letters(tmp_path), checkpoints=kept)
    train(settings, model, prompts, tmp_path / "whole")
    other = tmp_path / "other/checkpoint-1"
    shutil.copytree(saved(tmp_path / "root", 1), other)
    (other / "rewarded.json").unlink()
    from steps.finetune.checkpoints import seal

    (other / "manifest.json").unlink()
    seal(other)
    again = settings.model_copy(update={"checkpoints": CheckpointParams(resume_from_checkpoint=str(other))})
    with pytest.raises(UserError, match="TRAIN-E0221"):
        train(again, model, prompts, tmp_path / "ours")


FAULTS = {
    "raises": ("raise ValueError('no such animal')", "REWARD-E0207.*no such animal"),
    "hangs": ("__import__('time').sleep(60)", "REWARD-E0211.*no answer after 0.3 seconds"),
    "nan": ("return [float('nan') if number == 5 else 1.0 for number in range(len(completions))]",
            "REWARD-E0210.*row 6 of 8.*found nan"),
    "count": ("return [1.0]", "REWARD-E0209.*1 rewards for 8 completions"),
    "kind": ("return 1.0", "REWARD-E0208.*1.0 .float."),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reward_that_fails_is_named_and_nothing_is_lost(model, prompts, tmp_path, fault):
    body, message = FAULTS[fault]
    text = LETTERS.replace(
        "    texts = ", f"    if kwargs['trainer_state'].global_step == 2:\n        {body}\n    texts = ", 1
    )
    reward = letters(tmp_path, text)
    rewards = RewardSettings(reward_funcs=reward, reward_timeout_seconds=0.3)
    settings = settings_with("", rewards=rewards, checkpoints=CheckpointParams(save_steps=1))
    with pytest.raises(UserError, match=rf"(?s){message}") as told:
        train(settings, model, prompts, tmp_path / "ours")
    assert told.value.exit_code == 2
    assert "letters" in str(told.value)
    assert not (tmp_path / "ours/tuned").exists()
    rows = pq.read_table(saved(tmp_path / "root", 2) / "completions.parquet").to_pylist()
    assert [row["step"] for row in rows] == [1] * 8 + [2] * 8
    letters(tmp_path, text.replace("global_step == 2", "global_step == 99"))  # corrected
    history = train(settings, model, prompts, tmp_path / "ours")
    assert history["resumed_from"] == 2
    assert [row["step"] for row in table(tmp_path / "ours")] == [1] * 8 + [2] * 8 + [3] * 8


def test_columns_and_files_are_checked_before_a_model_is_loaded(model, prompts, tmp_path, monkeypatch):
    from steps.finetune.trainers import grpo

    monkeypatch.setattr(grpo, "load_model", lambda *_: pytest.fail("a model is loaded"))
    missing = letters(tmp_path, "def short(completions, difficulty):\n    return [0.0 for _ in completions]\n")
    with pytest.raises(UserError, match=r"REWARD-E0205.*'difficulty'"):
        train(settings_with(missing), model, prompts, tmp_path / "ours")
    reward = letters(tmp_path)
    asked = RewardSettings(reward_funcs=reward)
    rewards = asked.model_copy(update={"digests": digests_of(asked)})
    letters(tmp_path, LETTERS + "\n# changed\n")
    with pytest.raises(UserError, match=r"(?s)REWARD-E0230.*rewards.py:letters"):
        train(settings_with("", rewards=rewards), model, prompts, tmp_path / "ours")


@pytest.mark.parametrize(
    ("training", "rewarded", "code"),
    [
        ({"per_device_train_batch_size": 6}, {}, "TRAIN-E0222"),
        ({"per_device_train_batch_size": 64}, {}, "TRAIN-E0223"),
        ({"evaluation_strategy": "epoch", "per_device_eval_batch_size": 6}, {}, "TRAIN-E0224"),
    ],
)
def test_numbers_that_do_not_fit_are_told(model, prompts, tmp_path, training, rewarded, code):
    with pytest.raises(UserError, match=code):
        train(settings_with(letters(tmp_path), training, rewarded), model, prompts, tmp_path / "ours")


def test_an_evaluation_without_any_reward_is_told(model, tokenizer, local_root, tmp_path):
    rows = prompt_rows(16)
    data = write_prompts(tmp_path / "data", tokenizer, train=rows[:12],
                         validation=[{**row, "solution": None} for row in rows[12:]])  # fmt: skip
    reward = letters(tmp_path).replace(":letters", ":level")
    with pytest.raises(UserError, match=r"TRAIN-E0220.*no reward for any of 16 completions"):
        train(settings_with(reward, {"evaluation_strategy": "steps", "eval_steps": 1}), model, data, tmp_path / "ours")


def test_a_changed_model_of_a_reward_is_told(tmp_path):
    from steps.rewards.asked import load_asked

    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    options = f'{{"reward_model": {{"model": "{folder}"}}}}'
    asked = RewardSettings(reward_funcs="reward_model,length", reward_options=options)
    digests = digests_of(asked)
    assert list(digests) == ["reward_model"]
    seen = asked.model_copy(update={"digests": digests})
    assert [one.name for one in load_asked(seen).rewards] == ["reward_model", "length"]
    (folder / "config.json").write_text("{} ")
    with pytest.raises(UserError, match="REWARD-E0230 reward_model"):
        load_asked(seen)
    assert digests_of(RewardSettings(reward_funcs="length")) == {}
