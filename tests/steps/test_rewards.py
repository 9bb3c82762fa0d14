"""Every reward of the library on texts whose reward was decided by hand."""

import math

import pytest
from reward_cases import ADD, CASES, SEEDS
from sandboxed import skip_without_sandbox

from steps.errors import UserError
from steps.rewards.library import REWARDS
from steps.rewards.loading import load_rewards

TOKENS = {"five tokens": 5}


def reward_of(name, options, text, value):
    if name == "code":
        skip_without_sandbox()
    fast = {"timeout_seconds": 1} if name == "code" else {}
    rewards = load_rewards([name], options={name: fast | options})
    values = value if isinstance(value, tuple) else (value,) * len(rewards.columns)
    columns = {column: [one] for column, one in zip(rewards.columns, values, strict=True)}
    ids = [[0] * TOKENS.get(text, 1)]
    return rewards.score(["Which one?"], [text], columns, completion_ids=ids).rewards[name][0]


@pytest.mark.parametrize(
    ("name", "options", "text", "value", "expected"),
    [pytest.param(name, *case, id=f"{name}-{row}") for name, cases in CASES.items() for row, case in enumerate(cases)],
)
def test_a_text_earns(name, options, text, value, expected):
    made = reward_of(name, options, text, value)
    assert made == (None if expected is None else pytest.approx(expected))
    assert made is None or math.copysign(1, made) == (-1 if expected < 0 else 1)  # never -0.0


def test_every_reward_has_its_cases():
    assert set(REWARDS) == {*CASES, "reward_model"}  # a model's: test_reward_model.py
    assert {name: len(cases) for name, cases in CASES.items() if len(cases) < 12} == {}


def test_the_vendors_example():
    """Accuracy 0.8 and format 0.2: in Azure's the two contradict each other, here a good answer earns both."""
    rewards = load_rewards(["accuracy", "format"], [0.8, 0.2])
    assert rewards.columns == ("ground_truth",)
    texts = [SEEDS, "Final Answer: C", "<think>a</think><answer>B</answer>", "I do not know"]
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [[{"role": "user", "content": "Which one?"}]] * 4
    scores = rewards.score(prompts, answers, {"ground_truth": ["C"] * 4, "level": [1] * 4})
    assert scores.rewards == {"accuracy": [1, 1, 0, 0], "format": [1, 0, 1, 0]}
    assert scores.totals == pytest.approx([1, 0.8, 0.2, 0])
    assert scores.extra == {"accuracy/answer": ["C", "C", "B", ""]}


def test_a_reward_that_does_not_apply_is_left_out_of_the_sum():
    rewards = load_rewards(["exact_answer", "format"], [2, 1])
    scores = rewards.score(["", ""], [SEEDS, SEEDS], {"ground_truth": [None, "c"]})
    assert scores.rewards == {"exact_answer": [None, 1], "format": [1, 1]}
    assert scores.totals == [1, 3]
    assert load_rewards(["exact_answer"]).score([""], ["a"], {"ground_truth": [None]}).totals == [None]


@pytest.mark.parametrize(
    ("names", "weights", "options", "codes", "words"),
    [
        (["acuracy"], None, {}, ["REWARD-E0201"], "did you mean accuracy?"),
        ([], None, {}, ["REWARD-E0226"], "at least one"),
        (["format", "format"], None, {}, ["REWARD-E0212"], "format twice"),
        (["format"], [0.5, 0.5], {}, ["REWARD-E0202"], "2 weights for 1 rewards"),
        (["format", "math"], [math.nan, True], {}, ["REWARD-E0203", "REWARD-E0203"], "finite number"),
        (["length"], None, {"length": {"traget": 3}}, ["REWARD-E0204"], "did you mean target?"),
        (["length"], None, {"length": {"target": 0}}, ["REWARD-E0227"], "option target of length"),
        (["length"], None, {"lenght": {"target": 3}}, ["REWARD-E0225"], "did you mean length?"),
        (["overlong"], None, {"overlong": {"max_length": 3, "buffer": 4}}, ["REWARD-E0220"], "at most"),
        (["regex"], None, {}, ["REWARD-E0221"], "a pattern, or a column"),
        (["regex"], None, {"regex": {"pattern": "(a"}}, ["REWARD-E0213"], "missing )"),
        (["json_schema"], None, {}, ["REWARD-E0222"], "a schema, or a column"),
        (["json_schema"], None, {"json_schema": {"json_schema": {"type": "x"}}}, ["REWARD-E0214"], "a JSON schema"),
        (["json_schema"], None, {"json_schema": {"json_schema": "{"}}, ["REWARD-E0214"], "a JSON schema"),
        (["nothing", "length"], [1], {"length": {"a": 1}}, ["REWARD-E0201", "REWARD-E0202", "REWARD-E0204"], ""),
    ],
)
def test_wrong_rewards_are_refused_together(names, weights, options, codes, words):
    with pytest.raises(UserError) as error:
        load_rewards(names, weights, options)
    assert [problem.code for problem in error.value.problems] == codes
    assert words in str(error.value)


def test_a_missing_column_is_told_before_training():
    with pytest.raises(UserError, match=r"REWARD-E0205 .*did you mean ground_truths\?"):
        load_rewards(["exact_answer"]).check_columns(["prompt", "ground_truths"])
    load_rewards(["exact_answer"]).check_columns(["ground_truth"])


def test_lists_of_different_length_are_refused():
    with pytest.raises(UserError, match=r"REWARD-E0224 ground_truth"):
        load_rewards(["exact_answer"]).score(["", ""], ["a", "b"], {"ground_truth": ["a"]})


def test_tokens_are_not_counted_without_tokens():
    rewards = load_rewards(["length"], options={"length": {"unit": "tokens"}})
    with pytest.raises(UserError, match="REWARD-E0219"):
        rewards.score([""], ["a"], {})


@pytest.mark.parametrize("tests", ["[broken", [{"input": "a"}], [3], [{"call": 3, "expected": 3}]])
def test_wrong_tests_of_programs_are_refused(tests):
    with pytest.raises(UserError, match="REWARD-E0223"):
        reward_of("code", {}, ADD, tests)


def test_math_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="REWARD-E0229"):
        load_rewards(["math"])


def test_a_worker_that_was_killed_gives_the_same_answer():
    """Also one that was started in a thread that has ended."""
    import threading

    from steps.rewards.worker import Worker

    worker = Worker("steps.rewards.json_checked:judge", 5.0)
    made = []
    thread = threading.Thread(target=lambda: made.append(worker.run("fits", "{}", "1")))
    thread.start()
    thread.join()
    worker._process.kill()
    made += [worker.run("fits", "{}", "2"), worker.run("fits", "{}", "")]
    worker.close()
    assert made == ["fits", "fits", ""]


def test_soft_punishment_is_that_of_trl():
    from trl.rewards import get_soft_overlong_punishment

    ids = [[0] * length for length in range(0, 130, 7)]
    ours = load_rewards(["overlong"], options={"overlong": {"max_length": 100, "buffer": 40}})
    made = ours.score([""] * len(ids), [""] * len(ids), {}, completion_ids=ids).rewards["overlong"]
    assert made == pytest.approx(get_soft_overlong_punishment(100, 40)(ids))


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("a", "a"),
        ([{"role": "assistant", "content": "a"}], "a"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "a"),
        ([{"role": "assistant", "content": None, "tool_calls": []}, {"role": "assistant", "content": "a"}], "a"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_text_of_a_completion(completion, text):
    from steps.rewards.texts import text_of

    assert text_of(completion) == text


def test_every_reward_and_option_is_documented():
    from pathlib import Path

    from steps.rewards.library import module_of

    guide = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    library = guide.split("## The library")[1].split("###")[0]
    rows = [line for line in library.splitlines() if line.startswith("| `")]
    for name in REWARDS:
        [row] = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        assert [option for option in module_of(name).Options.model_fields if f"`{option}`" not in row] == []


def test_the_guides_example_runs():
    import re
    from pathlib import Path

    guide = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    library, own, of_verl = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    made: dict = {}
    exec(library, made)
    assert made["scores"].rewards == {"accuracy": [1.0], "format": [1.0]}
    assert made["scores"].totals == [1.0]
    assert made["scores"].extra == {"accuracy/answer": ["C"]}
    exec(own, made)
    logged = {}
    answers = [[{"role": "assistant", "content": text}] for text in ("It is C.", "It is B.")]
    assert made["short_and_right"](answers, ["C", "C"], log_extra=logged.__setitem__) == [1.0, 0.0]
    assert logged == {"words": [3, 3]}
    exec(of_verl, made)
    assert made["compute_score"]("any", "It is C.", "C") == {"score": 1.0, "words": 3}
