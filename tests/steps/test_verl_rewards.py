"""Rewards in a training with verl: the same values as the library's, also through verl's own reward manager."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from verl_reward_manager import LIBRARIES
from verl_runs import row, write_rows

from steps.errors import UserError
from steps.launch.told import from_text
from steps.params.settings import RewardSettings
from steps.rewards.loading import load_rewards
from steps.verl import rewards
from steps.verl.data import PROMPT, write_data
from steps.verl.overrides import written

ROOT = Path(__file__).parents[2]
ANSWERS = ["<think>no</think><answer>0</answer>", "The answer is 1.", "Final Answer: 7", "#### 3"]
SHORT = """
def short(completions, difficulty, prompts, **kwargs):
    return [len(completion[-1]["content"]) / 100 + len(prompt[0]["content"]) + (one == "easy")
            for completion, one, prompt in zip(completions, difficulty, prompts)]
"""
OWN = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "openai/gsm8k" and "finetune_prompt" not in extra_info
    right = ground_truth in solution_str
    return {"score": 2.0 * right + extra_info["index"], "right": float(right)}
"""


def job(folder: Path, funcs: str, **changes) -> str:
    folder.mkdir(exist_ok=True)
    return str(rewards.write_job(folder, RewardSettings(reward_funcs=funcs, **changes)))


def test_a_score_is_the_weighted_sum_and_each_reward_is_told(tmp_path):
    given = job(tmp_path, "numeric_answer,length", reward_weights="0.5,2", reward_options='{"length": {"target": 20}}')
    info = {"index": 1, PROMPT: '[{"role": "user", "content": "1 + 0?"}]'}
    made = rewards.compute_score("openai/gsm8k", "Final Answer: 1", "1", info, job=given)
    loaded = load_rewards(["numeric_answer", "length"], [0.5, 2], {"length": {"target": 20}})
    answer = [{"role": "assistant", "content": "Final Answer: 1"}]
    scores = loaded.score([None], [answer], {"ground_truth": ["1"]})
    assert made["score"] == scores.totals[0]
    assert made["rewards/numeric_answer"] == scores.rewards["numeric_answer"][0] == 1
    assert made["rewards/length"] == scores.rewards["length"][0]


def test_a_reward_that_does_not_apply_adds_nothing(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def none(completions, **kwargs):\n    return [None for _ in completions]\n")
    made = rewards.compute_score("s", "x", "1", {}, job=job(tmp_path / "job", f"{file}:none"))
    assert made["score"] == 0
    assert math.isnan(made["rewards/none"])


@pytest.mark.parametrize(
    ("body", "found"),
    [("return None", "None"), ("return float('nan')", "nan"), ("return {'right': 1}", "right"),
     ("raise KeyError('a')", "KeyError")],
)  # fmt: skip
def test_a_function_that_gives_no_number_is_an_error_that_the_parent_finds(tmp_path, body, found):
    file = tmp_path / "mine.py"
    file.write_text(f"def score(data_source, solution_str, ground_truth, extra_info=None):\n    {body}\n")
    given = job(tmp_path / "job", f"{file}:score")
    with pytest.raises(UserError, match=found):
        rewards.compute_score("s", "an answer", "1", {}, job=given)
    told = next((tmp_path / "job").glob(f"{rewards.ERROR}*.json"))
    error = from_text(told.read_text("utf-8"))
    assert isinstance(error, UserError)
    assert "mine.py" in str(error)
    assert "an answer" in str(error)


def test_a_function_that_takes_too_long_is_stopped(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import time\ndef score(data_source, solution_str, ground_truth):\n    time.sleep(60)\n")
    given = job(tmp_path / "job", f"{file}:score", reward_timeout_seconds=0.1)
    with pytest.raises(UserError, match=r"VERL-E0203|takes"):
        rewards.compute_score("s", "x", "1", {}, job=given)


def test_a_function_that_changed_since_the_plan_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1\n")
    given = job(tmp_path / "job", f"{file}:score", digests={f"{file}:score": "0" * 64})
    with pytest.raises(UserError, match="VERL-E0205"):
        rewards.compute_score("s", "x", "1", {}, job=given)


def test_verls_signature_is_known_by_its_argument(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "short.py").write_text(SHORT)
    assert rewards.is_verl_function(f"{tmp_path / 'own.py'}:compute_score")
    assert not rewards.is_verl_function(f"{tmp_path / 'short.py'}:short")


@pytest.mark.slow
def test_verls_own_reward_manager_gives_the_same_values(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    rows = [row(number) for number in range(4)]
    searched = [row(number, data_source="searchR1_nq", reward_model={
        "style": "rule", "ground_truth": {"target": ["0", "Paris"]}}) for number in range(4)]  # fmt: skip
    data = write_rows(tmp_path / "data", rows, rows)
    plain = write_data(data, tmp_path / "plain")
    prompted = write_data(data, tmp_path / "prompted", own_rewards=True)
    objects = write_data(write_rows(tmp_path / "searched", searched, searched), tmp_path / "objects")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "short.py").write_text(SHORT)
    library = {"reward_weights": "0.25,0.75", "reward_options": '{"length": {"target": 20}}'}
    jobs = [
        asked(plain.train),
        asked(objects.train),
        asked(prompted.train, job(tmp_path / "a", "numeric_answer,length", **library)),
        asked(prompted.train, job(tmp_path / "b", f"{tmp_path / 'short.py'}:short")),
        asked(prompted.train, job(tmp_path / "c", f"{tmp_path / 'own.py'}:compute_score")),
    ]
    by_source, by_object, by_library, by_user, by_own = through_verl(tiny_model, jobs)

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, skip_special_tokens=True)
             for text in ANSWERS]  # fmt: skip
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [one["prompt"] for one in rows]
    loaded = load_rewards(["numeric_answer", "length"], [0.25, 0.75], {"length": {"target": 20}})
    expected = loaded.score(prompts, completions, {"ground_truth": [str(number) for number in range(4)]})
    assert len(set(expected.totals)) > 1
    assert [one["reward_score"] for one in by_library] == expected.totals
    told = [one["reward_extra_info"]["rewards/length"] for one in by_library]
    assert told == expected.rewards["length"]

    expected = load_rewards([f"{tmp_path / 'short.py'}:short"]).score(
        prompts, completions, {"difficulty": ["easy"] * 4}
    )
    assert [one["reward_score"] for one in by_user] == expected.totals
    right = [str(number) in text for number, text in enumerate(texts)]
    assert [one["reward_score"] for one in by_own] == [2.0 * one + number for number, one in enumerate(right)]
    # What verl 0.9.1 does itself: gsm8k wants "#### 0", search-R1 an <answer> that equals one of the targets.
    assert [one["reward_score"] for one in by_source] == [0, 0, 0, 1]
    assert [one["reward_score"] for one in by_object] == [1, 0, 0, 0]


def asked(train: Path, job: str = "") -> dict:
    own = {"reward.custom_reward_function.path": str(Path(rewards.__file__)),
           "+reward.custom_reward_function.reward_kwargs.job": job}  # fmt: skip
    keys = {"data.train_files": str(train), "data.filter_overlong_prompts": False, **(own if job else {})}
    return {"config": [f"{key}={written(value)}" for key, value in keys.items()], "answers": ANSWERS}


def through_verl(tokenizer: Path, jobs: list[dict]) -> list[list[dict]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARIES), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "verl_reward_manager.py")], env=environment, text=True,
        input=json.dumps({"tokenizer": str(tokenizer), "jobs": jobs}), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
