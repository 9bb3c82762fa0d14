"""The user's own functions with verl's signature: what they are called with, and how their errors are reported."""

import inspect
import time

import pytest
from waiting import LONG

from steps.errors import UserError
from steps.rewards.loading import check_rewards, load_rewards

CODE = """
import asyncio, time
import numpy as np

seen = []

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    seen.append((data_source, solution_str, ground_truth, extra_info, kwargs))
    return 1.0 if ground_truth in solution_str else 0
def last(solution_str, ground_truth): return np.float32(len(solution_str) + len(ground_truth))
def named(data_source, solution_str, ground_truth, extra_info):
    return {"score": True, "acc": extra_info["level"], "pred": solution_str.upper()}
def some(solution_str, extra_info): return {"score": 1} if extra_info["level"] == 1 else {"score": 0, "why": "wrong"}
async def later(data_source, solution_str, ground_truth, extra_info=None):
    await asyncio.sleep(0.3)
    return {"score": len(solution_str)}
def target(data_source, solution_str, ground_truth, extra_info=None): return ground_truth["target"][0] == solution_str
def raises(solution_str, extra_info, **kwargs):
    return 1 / (extra_info["level"] - 2)
async def later_raises(solution_str, extra_info, **kwargs): return 1 / (extra_info["level"] - 2)
def exits(solution_str, **kwargs): raise SystemExit(0)
def sleeps(solution_str, extra_info):
    if extra_info["level"] == 2: time.sleep(1000)
    return 1.0
async def later_sleeps(solution_str, extra_info):
    if extra_info["level"] == 2: await asyncio.sleep(1000)
    return 1.0
def slow(solution_str, **kwargs):
    time.sleep(0.6)
    return 1.0
def nan(solution_str, **kwargs): return float("nan") if solution_str == "bb" else 1.0
def nothing(solution_str, **kwargs): ...
def text(solution_str, **kwargs): return "1.0"
def no_score(solution_str, **kwargs): return {"acc": 1.0}
def mixed(solution_str, **kwargs): return {"score": [1.0]}
def by_place(solution_str, /, **kwargs): ...
def column(solution_str, level): ...
"""
ROWS = {"level": [1, 2, 3], "data_source": ["a", "b", "c"], "ground_truth": ["a", "x", "cc"]}
TEXTS = ["a", "bb", "ccc"]


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(CODE)
    return file


def scored(code, name, columns=ROWS, seconds=20.0, texts=TEXTS):
    rewards = load_rewards([f"{code}:{name}"], timeout_seconds=seconds)
    scores = rewards.score(["p"] * 3, texts, columns, completion_ids=[[1], [1, 2], []])
    return scores.rewards[f"{code}:{name}"], scores


def test_it_is_called_for_each_completion_as_verl_calls_it(code):
    rewards = load_rewards([f"{code}:compute_score"])
    assert rewards.columns == ("data_source", "ground_truth")
    answers = [[{"role": "assistant", "content": text}] for text in TEXTS]
    prompts = [[{"role": "user", "content": "Which?"}]] * 3
    assert rewards.score(prompts, answers, ROWS, trainer_state="state").totals == [1, 0, 1]
    calls = rewards.rewards[0].call.__closure__
    [loaded] = [cell.cell_contents for cell in calls if hasattr(cell.cell_contents, "file")]
    assert inspect.unwrap(loaded.call).__globals__["seen"] == [
        ("a", "a", "a", {"level": 1}, {}),
        ("b", "bb", "x", {"level": 2}, {}),
        ("c", "ccc", "cc", {"level": 3}, {}),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("last", [2, 3, 5]), ("named", [1, 1, 1]), ("some", [1, 0, 0]), ("later", [1, 2, 3])],
)
def test_it_gets_what_it_names(code, name, expected):
    assert scored(code, name)[0] == expected


def test_the_other_values_of_an_object_are_kept(code):
    assert scored(code, "named")[1].extra == {"named/acc": [1, 2, 3], "named/pred": ["A", "BB", "CCC"]}
    assert scored(code, "some")[1].extra == {"some/why": [None, "wrong", "wrong"]}


def test_answers_of_an_async_function_are_judged_together(code):
    started = time.monotonic()
    columns = {name: values * 20 for name, values in ROWS.items()}
    rewards = load_rewards([f"{code}:later"])
    assert rewards.score(["p"] * 60, TEXTS * 20, columns).totals == [1, 2, 3] * 20
    assert time.monotonic() - started < 0.3 * 60


def test_a_right_answer_that_is_an_object_arrives_as_one(code):
    columns = {"data_source": ["searchR1_nq", "searchR1_nq", "x"],
               "ground_truth": ['{"target": ["a"]}', '{"target": ["c"]}', {"target": ["ccc"]}]}  # fmt: skip
    assert scored(code, "target", columns)[0] == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "code_", "words"),
    [
        ("raises", "REWARD-E0207", ["rewards.py:19", "row 2 of 3", "'bb'", "ZeroDivisionError"]),
        ("later_raises", "REWARD-E0207", ["rewards.py:20", "row 2 of 3", "'bb'", "ZeroDivisionError"]),
        ("exits", "REWARD-E0207", ["SystemExit", "row 1 of 3"]),
        ("nan", "REWARD-E0234", ["row 2 of 3 ('bb')", "found nan"]),
        ("nothing", "REWARD-E0234", ["row 1 of 3", "found None"]),
        ("text", "REWARD-E0234", ["found '1.0'"]),
        ("no_score", "REWARD-E0234", ["'acc'", "as score"]),
        ("mixed", "REWARD-E0234", ["[1.0]"]),
    ],
)
def test_a_wrong_result_names_function_row_and_value(code, name, code_, words):
    with pytest.raises(UserError) as error:
        scored(code, name)
    [problem] = error.value.problems
    assert problem.code == code_
    assert name in str(problem)
    assert [word for word in words if word not in str(problem)] == []


@pytest.mark.parametrize(("name", "row"), [("sleeps", 2), ("later_sleeps", 2), ("slow", 2)])
def test_the_time_limit_is_of_the_whole_batch(code, name, row):
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"REWARD-E0211 .*{name}, row {row} of 3 .*1 seconds"):
        scored(code, name, seconds=1.0)
    assert time.monotonic() - started < LONG


@pytest.mark.parametrize("name", ["by_place", "column"])
def test_a_function_that_cannot_be_called_so_is_refused(code, name):
    with pytest.raises(UserError, match=rf"REWARD-E0206 .*def {name}\(data_source, ground_truth, solution_str"):
        check_rewards([f"{code}:{name}"])


def test_columns_that_it_names_must_be_there(code):
    with pytest.raises(UserError, match=r"REWARD-E0205 .*data_source"):
        load_rewards([f"{code}:compute_score"]).check_columns(["prompt", "ground_truth"])
