"""Base and tuned model complete the held-out prompts, and the rewards of the training judge the completions."""

import json
import statistics
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import build_model
from reward_prompts import prepared_prompts, prompt_rows
from training_inputs import as_imported
from transformers import AutoModelForCausalLM, AutoTokenizer

from steps.errors import UserError
from steps.evaluate import rewarded
from steps.evaluate.measuring import measure
from steps.evaluate.rewarded import compare
from steps.evaluate.step import evaluate
from steps.generation import vllm_engine
from steps.kinds.recipe import recipe
from steps.params.metrics import direction_of
from steps.params.pipelines.grpo_chat_completion import GrpoChatCompletionParameters
from steps.params.reading import choices_of
from steps.params.reward_training import Completions
from steps.params.settings import EvaluationSettings, RewardSettings
from steps.plan.evaluation_options import evaluation_options
from steps.rewards.asked import digests_of

pytestmark = pytest.mark.usefixtures("local_root")

REWARDS = """
def vowels(completions, log_extra, **_):
    texts = [completion[-1]["content"] for completion in completions]
    log_extra("first", [text[:1] for text in texts])
    log_extra("facts", [{"n": len(text)} for text in texts])
    return [sum(letter in "aeiou" for letter in text) / 10 for text in texts]

def of_some(completions, level, completion_ids):
    return [len(ids) if one == 1 else None for one, ids in zip(level, completion_ids)]

def of_none(completions):
    return [None] * len(completions)

def failing(completions, solution):
    return [1.0 if one != "74" else 1 / 0 for one in solution]

def as_asked(prompts, completions, ground_truth, solution, hint=None):
    assert hint is None
    assert ground_truth == solution
    assert all(prompt[-1] == {"role": "user", "content": f"What comes after {int(right) - 1}?"}
               for prompt, right in zip(prompts, ground_truth))
    return [0.0] * len(completions)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """Two chat models that write different completions."""
    folders = tuple(tmp_path_factory.mktemp("models") / name for name in ("base", "tuned"))
    build_model(folders[0], initializer_range=0.2, tie_word_embeddings=False)
    build_model(folders[1], initializer_range=0.25, tie_word_embeddings=False)
    return folders


@pytest.fixture(scope="module")
def data(tmp_path_factory, models) -> Path:
    return prepared_prompts(models[0], tmp_path_factory.mktemp("data"), prompt_rows(84))


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path / "rewards.py"


def settings_of(funcs: str, weights: str = "", **changes) -> EvaluationSettings:
    rewards = RewardSettings(reward_funcs=funcs, reward_weights=weights)
    gate = {"gate_metric": "reward", "evaluation_engine": "accelerate", **changes.pop("evaluation", {})}
    return EvaluationSettings(
        task="grpo", method="grpo", evaluation=gate, batch_size=4, completions=Completions(max_completion_length=12),
        rewards=rewards.model_copy(update={"digests": digests_of(rewards)}), **changes,
    )  # fmt: skip


def of_transformers(folder: Path, data: Path, row: int, most: int = 12) -> list[int]:
    """Let transformers continue a test prompt, without settings of ours."""
    [ids] = pq.read_table(data / "tokens/test.parquet").slice(row, 1)["prompt_ids"].to_pylist()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        made = model.generate(
            torch.tensor([ids]), max_new_tokens=most, do_sample=False, eos_token_id=tokenizer.eos_token_id
        )
    return made[0, len(ids) :].tolist()


def test_completions_are_those_of_transformers_and_judged_by_every_reward(models, data, file):
    compared = compare(settings_of(f"{file}:vowels,{file}:of_some,format", "1,0.5,2"), *models, data)
    table = compared.predictions.to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    assert [row["prompt"] for row in table] == [f"What comes after {n}?" for n in range(72, 84)]
    assert [row["ground_truth"] for row in table] == [str(n) for n in range(73, 85)]
    for name, folder in zip(("base", "tuned"), models, strict=True):
        written = [of_transformers(folder, data, row) for row in range(12)]
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        assert [row[name] for row in table] == texts
        assert [row[f"{name}_tokens"] for row in table] == list(map(len, written))
        assert [row[f"{name}_finished"] for row in table] == [
            ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") for ids in written
        ]
        vowels = [sum(map(text.count, "aeiou")) / 10 for text in texts]
        some = [len(ids) if n % 3 == 1 else None for n, ids in zip(range(72, 84), written, strict=True)]
        totals = [one + 0.5 * (other or 0) for one, other in zip(vowels, some, strict=True)]
        assert [row[f"{name}_rewards/vowels"] for row in table] == pytest.approx(vowels)
        assert [row[f"{name}_rewards/of_some"] for row in table] == some
        assert [row[f"{name}_reward"] for row in table] == pytest.approx(totals)
        assert [row[f"{name}_vowels/first"] for row in table] == [text[:1] for text in texts]
        assert json.loads(table[0][f"{name}_vowels/facts"]) == {"n": len(texts[0])}
        assert compared.scores[name] == pytest.approx({
            "reward": statistics.mean(totals),
            "rewards/vowels": statistics.mean(vowels),
            "rewards/of_some": statistics.mean(one for one in some if one is not None),
            "rewards/format": 0.0,
            "gen_len": statistics.mean(map(len, written)),
            "finished": statistics.mean(ids[-1] == tokenizer.eos_token_id for ids in written),
        })  # fmt: skip
    assert len({row["tuned"] for row in table} | {row["base"] for row in table}) > 12
    told = {one["short"]: one for one in compared.more["rewards"]["rewards"]}
    assert told["of_some"]["applies"] == {"base": 4, "tuned": 4}
    assert [one["weight"] for one in told.values()] == [1, 0.5, 2]
    assert compared.more["rewards"]["without"] == {"base": 0, "tuned": 0}


def test_completions_of_vllm_are_judged_alike(models, data, file, monkeypatch):
    """With a stand-in that generates as transformers does; tests/serving has the real."""
    given = []

    class Engine:
        def __init__(self, folder):
            self.model = AutoModelForCausalLM.from_pretrained(folder)

        @torch.inference_mode()
        def answer(self, prompts):
            for number, prompt in reversed(list(enumerate(prompts))):
                ids = torch.tensor([prompt.ids])
                written = self.model.generate(ids, max_new_tokens=prompt.most, do_sample=False)
                yield number, tuple(written[0, len(prompt.ids) :].tolist())

    @contextmanager
    def opened(settings, folder):
        given.append(settings.decoding)
        yield Engine(folder)

    monkeypatch.setattr(vllm_engine, "open_engine", opened)
    ours, theirs = (
        compare(settings_of(f"{file}:vowels", evaluation={"evaluation_engine": name}), *models, data)
        for name in ("accelerate", "vllm")
    )
    assert theirs.scores == ours.scores
    assert theirs.predictions.equals(ours.predictions)
    assert (ours.more["rewards"]["engine"], theirs.more["rewards"]["engine"]) == ("", "vllm")
    assert [decoding.max_new_tokens for decoding in given] == [12, 12]


def test_the_gate_may_ask_for_what_the_evaluation_measures(models, data, file):
    measured = compare(settings_of(f"{file}:vowels,format"), models[0], models[0], data).scores["tuned"]
    directions = {name: direction_of(name) for name in measured}
    assert directions == {"reward": True, "rewards/vowels": True, "rewards/format": True,
                          "gen_len": None, "finished": None}  # fmt: skip
    choices = choices_of(GrpoChatCompletionParameters.model_fields["gate_metric"])
    assert [*choices] == ["reward"]
    with pytest.raises(KeyError):
        direction_of("rewards/")


def planned(**given):
    parameters = GrpoChatCompletionParameters(reward_funcs="format,/r/mine.py:short", **given)
    return evaluation_options(parameters, recipe("causal_lm", "grpo"))


def test_the_plan_knows_the_metric_of_each_reward():
    names = ["rewards/short", "finished", "gen_len", "reward", "rewards/format"]
    assert planned(evaluation_config_params=json.dumps({"metrics": names})).options.metrics == names
    for key, value in (("metrics", ["rewards/shrot"]), ("metrics", ["bleu"]), ("ignore_case", True)):
        with pytest.raises(UserError) as refused:
            planned(evaluation_config_params=json.dumps({key: value}))
        [problem] = refused.value.problems
        assert problem.code == ("PLAN-E0314" if key == "ignore_case" else "PLAN-E0319")
        assert problem.fix == ("did you mean rewards/short?" if value == ["rewards/shrot"] else problem.fix)


def test_rewards_get_prompts_and_every_column_as_in_training(models, data, file):
    compared = compare(settings_of(f"{file}:as_asked,accuracy"), *models, data)
    assert compared.scores["tuned"]["rewards/as_asked"] == 0


def test_a_reward_that_never_applies_has_no_value_and_no_reward_at_all_is_refused(models, data, file):
    compared = compare(settings_of(f"{file}:of_none,format"), *models, data)
    assert "rewards/of_none" not in compared.scores["tuned"]
    assert compared.scores["tuned"]["reward"] == 0
    [told, _] = compared.more["rewards"]["rewards"]
    assert (told["tuned"], told["applies"]) == (None, {"base": 0, "tuned": 0})
    with pytest.raises(UserError, match=r"EVAL-E0233 test rows: found no reward .* base model or the tuned"):
        compare(settings_of(f"{file}:of_none"), *models, data)


def test_a_reward_that_fails_names_its_row_and_whose_completions_they_are(models, data, file):
    with pytest.raises(UserError) as failed:
        compare(settings_of(f"{file}:failing"), *models, data)
    [problem] = failed.value.problems
    assert problem.code == "REWARD-E0207"
    assert "failing, row 2 of 12" in problem.where
    assert problem.where.endswith("(completions of the base model, test rows 1 to 12)")
    assert failed.value.exit_code == 2


def test_rewards_and_columns_are_checked_before_anything_is_loaded(models, data, file, tmp_path):
    nothing = tmp_path / "no-model"
    asked = settings_of(f"{file}:vowels")
    file.write_text(REWARDS + "\n")
    with pytest.raises(UserError, match=r"REWARD-E0230 .*rewards.py:vowels"):
        compare(asked, nothing, nothing, data)
    file.write_text("def other(completions, levels):\n    return [0.0] * len(completions)\n")
    with pytest.raises(UserError, match=r"REWARD-E0205 .*'levels'.* did you mean level"):
        compare(settings_of(f"{file}:other"), nothing, nothing, data)


def test_a_column_that_no_held_out_row_has_is_none(models, file, tmp_path):
    rows = prompt_rows(84)
    for row in rows[-12:]:
        del row["level"]
    made = prepared_prompts(models[0], tmp_path / "d", rows)
    compared = compare(settings_of(f"{file}:of_some,format"), *models, made)
    assert "rewards/of_some" not in compared.scores["tuned"]


def test_many_rows_are_judged_in_batches(models, tmp_path, monkeypatch):
    rows = prompt_rows(300)
    made = prepared_prompts(models[0], tmp_path / "d", rows)
    (tmp_path / "sizes.py").write_text(
        "def sizes(completions, log_extra, solution):\n"
        "    if len(completions) < 10: log_extra('size', [len(completions)] * len(completions))\n"
        "    return [int(one) for one in solution]\n"
    )
    monkeypatch.setattr(rewarded, "AT_ONCE", 5)
    compared = compare(settings_of(f"{tmp_path}/sizes.py:sizes"), models[0], models[0], made)
    table = compared.predictions
    assert table["tuned_sizes/size"].to_pylist() == ["5"] * 10 + ["2"] * 2
    assert table["tuned_reward"].to_pylist() == list(range(289, 301))
    assert compared.scores["base"] == compared.scores["tuned"]


@pytest.mark.parametrize(("bounds", "passed"), [({"gate_min_value": 1.0}, False), ({}, None)])
def test_the_gate_and_the_chosen_metrics(models, data, file, tmp_path, bounds, passed):
    imported = [as_imported(folder, tmp_path / f"imported-{folder.name}") for folder in models]
    asked = settings_of(f"{file}:vowels,{file}:of_some", "1,0", evaluation=bounds,
                        options={"metrics": ["rewards/vowels"]})  # fmt: skip
    told = evaluate(asked, imported[0], imported[1], imported[1], data, tmp_path / "e", tmp_path / "e.html")
    metrics = json.loads((tmp_path / "e/metrics.json").read_text())
    assert set(metrics["tuned"]) == {"reward", "rewards/vowels"}
    assert metrics["gate"]["metric"] == "reward"
    assert told == (metrics["tuned"]["reward"] > metrics["base"]["reward"] if passed is None else passed)
    measured = measure(asked, imported[0], imported[1], data, tmp_path / "scratch")
    assert measured == {"metrics": metrics["tuned"], "score": metrics["tuned"]["reward"], "rows": 12}
    first = evaluate(asked.model_copy(update={"evaluation": asked.evaluation.model_copy(update={
        "evaluation_max_rows": 3})}), *imported, imported[1], data, tmp_path / "f")  # fmt: skip
    assert first in (True, False)
    assert json.loads((tmp_path / "f/metrics.json").read_text())["rows"] == 3
