"""The user's own rewards: what they are called with, and how each of their errors is reported."""

import asyncio
import re
import threading
import time

import pytest
from waiting import LONG

from steps.errors import UserError
from steps.rewards.limits import TimeLimit, call_within
from steps.rewards.loading import check_rewards, load_rewards

CODE = """
import asyncio, dataclasses, json, re, time
import numpy as np

@dataclasses.dataclass
class Seen:
    calls: "int" = 0

def length(completions, **kwargs): return [len(text) for text in completions]
def named(prompts, completions, level, bonus=None, *, log_extra, log_metric):
    log_extra("double", [one * 2 for one in level])
    log_metric("mean", 3.0)
    return [float(one) + (extra or 0) for one, extra in zip(level, bonus or [0] * len(level))]
async def later(completions, level, **kwargs):
    await asyncio.sleep(0.01)
    return [one * 1.0 for one in level]
loops_seen = set()
async def loop_of(completions):
    loops_seen.add(asyncio.get_running_loop())
    return [float(len(loops_seen))] * len(completions)
def everything(**kwargs): return [len(kwargs)] * len(kwargs["completions"])
def ids(completion_ids): return [len(one) for one in completion_ids]
def array(completions, level): return np.array(level, dtype=np.float32)
def scalars(completions, level): return [np.float64(one) for one in level]
def booleans(completions): return [True, False, None]
def defaults(completions, scale=2): return [scale if isinstance(scale, int) else 7] * len(completions)

def raises(completions, level, **kwargs):
    return [inverse(one) for one in level]
def inverse(one):
    return 1 / (one - 2)
async def later_raises(completions, level): return [1 / (one - 2) for one in level]
def exits(completions): raise SystemExit(0)
def together(completions):
    if len(completions) > 1: raise KeyError("several")
    return [0.0]
def nan(completions): return [0.0, float("nan"), float("inf")]
def text(completions): return [0.0, "1.0", 0.0]
def huge(completions): return [0.0, 10 ** 400, 0.0]
def large(completions): return [0.0, 0.0, -1e19]
def careless(completions):
    import torch
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return [1.0] * len(completions)
def nested(completions): return [[0.0], 0.0, 0.0]
def count(completions): return [0.0]
def nothing(completions): print("forgot to return")
def number(completions): return 1.0
def mapping(completions): return {"a": 1}
def generator(completions):
    yield 1.0
def sleeps(completions, level):
    for one in level:
        if one == 2: time.sleep(1000)
    return level
def loops(completions):
    while True:
        try: time.sleep(0.001)
        except BaseException: pass
def stubborn(completions):
    while True:
        try: time.sleep(0.001)
        except Exception: pass
def backtracks(completions): return [re.match("(a+)+$", "a" * 50 + "b")] * 3
async def later_sleeps(completions): await asyncio.sleep(1000)
def logs(completions, log_extra):
    log_extra("short", [1])
    return [0.0] * 3

def no_completions(prompts): ...
def by_place(completions, /, level): ...
def by_place_only(completions=None, /): ...
"""
ROWS = {"level": [1, 2, 3], "answer": ["x", "y", "z"]}
TEXTS = ["a", "bb", "ccc"]


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(CODE)
    return file


def scored(code, name, columns=ROWS, seconds=20.0):
    rewards = load_rewards([f"{code}:{name}"], timeout_seconds=seconds)
    scores = rewards.score(["p"] * 3, TEXTS, columns, completion_ids=[[1], [1, 2], []])
    return scores.rewards[f"{code}:{name}"], scores


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("length", [1, 2, 3]),
        ("named", [1, 2, 3]),
        ("later", [1, 2, 3]),
        ("everything", [7, 7, 7]),  # prompts, completions, completion_ids, two columns, log_extra, log_metric
        ("ids", [1, 2, 0]),
        ("array", [1, 2, 3]),
        ("scalars", [1, 2, 3]),
        ("booleans", [1, 0, None]),
        ("defaults", [2, 2, 2]),
    ],
)
def test_a_function_gets_what_it_names(code, name, expected):
    made, _ = scored(code, name)
    assert made == expected


def test_gradients_and_types_of_the_training_are_left_as_they_were(code):
    import torch

    assert scored(code, "careless")[0] == [1, 1, 1]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_all_calls_of_an_async_function_share_an_event_loop(code):
    rewards = load_rewards([f"{code}:loop_of"])
    made = [rewards.score(["p"], ["a"], {}).totals for _ in range(3)]
    assert made == [[1.0]] * 3


def test_optional_columns_are_given_where_they_are(code):
    assert scored(code, "named", ROWS | {"bonus": [10, 20, None]})[0] == [11, 22, 3]
    assert scored(code, "defaults", {"scale": [1, 1, 1]})[0] == [7, 7, 7]


def test_what_it_logs_is_kept(code):
    _, scores = scored(code, "named")
    assert scores.extra == {"named/double": [2, 4, 6]}
    assert scores.metrics == {"named/mean": 3.0}


def test_it_is_weighted_with_the_library(code):
    rewards = load_rewards([f"{code}:later", "format"], [0.5, 1.0])
    assert rewards.columns == ("level",)
    scores = rewards.score(["p"] * 3, ["a", "<think>a</think><answer>b</answer>", "c"], ROWS)
    assert scores.totals == [0.5, 2.0, 1.5]


@pytest.mark.parametrize(
    ("name", "code_", "words"),
    [
        ("raises", "REWARD-E0207", ["rewards.py:31", "row 2 of 3", "'bb'", "ZeroDivisionError"]),
        ("later_raises", "REWARD-E0207", ["row 2 of 3", "'bb'", "ZeroDivisionError"]),
        ("exits", "REWARD-E0207", ["SystemExit", "row 1 of 3"]),
        ("together", "REWARD-E0207", ["KeyError", "none of which fails alone"]),
        ("nan", "REWARD-E0210", ["row 2 of 3", "'bb'", "found nan", "2 like this; first: 2, 3"]),
        ("text", "REWARD-E0210", ["row 2 of 3", "found '1.0'"]),
        ("huge", "REWARD-E0210", ["row 2 of 3", "1000000"]),
        ("large", "REWARD-E0210", ["row 3 of 3", "found -1e+19", "up to 1e18"]),
        ("nested", "REWARD-E0210", ["row 1 of 3", "found [0.0]"]),
        ("count", "REWARD-E0209", ["1 rewards for 3 completions"]),
        ("nothing", "REWARD-E0208", ["found None (NoneType)"]),
        ("number", "REWARD-E0208", ["found 1.0 (float)"]),
        ("mapping", "REWARD-E0208", ["(dict)"]),
        ("generator", "REWARD-E0208", ["(generator)"]),
        ("logs", "REWARD-E0217", ["log_extra('short')", "1 values"]),
    ],
)
def test_a_wrong_result_names_function_row_and_value(code, name, code_, words):
    with pytest.raises(UserError) as error:
        scored(code, name)
    [problem] = error.value.problems
    assert problem.code == code_
    assert error.value.exit_code == 2
    assert name in str(problem)
    assert [word for word in words if word not in str(problem)] == []


@pytest.mark.parametrize("name", ["sleeps", "loops", "stubborn", "backtracks", "later_sleeps"])
def test_a_function_that_hangs_is_stopped(code, name):
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"REWARD-E0211 .*{name}.*1 seconds") as error:
        scored(code, name, seconds=1.0)
    assert time.monotonic() - started < LONG
    if name == "sleeps":
        assert "row 2 of 3 ('bb')" in str(error.value)


@pytest.mark.parametrize("name", ["sleeps", "later_sleeps", "raises", "later"])
def test_the_same_holds_in_a_thread_and_beside_an_event_loop(code, name):
    ends = []

    def work():
        try:
            ends.append(scored(code, name, seconds=1.0)[0])
        except UserError as error:
            ends.append(error.problems[0].code)

    async def beside():
        work()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    asyncio.run(beside())
    expected = {"raises": "REWARD-E0207", "later": [1, 2, 3]}.get(name, "REWARD-E0211")
    assert ends == [expected, expected]


def test_a_time_limit_leaves_the_timer_of_others_alone():
    import signal

    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    old = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert call_within(5, lambda: 3) == 3
        with pytest.raises(TimeLimit):
            call_within(0.05, lambda: time.sleep(9))
        time.sleep(0.5)
        assert rang == [1]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *old)


def test_missing_columns_are_told_before_training_with_the_nearest_name(code):
    rewards = load_rewards([f"{code}:raises", f"{code}:named"])
    with pytest.raises(UserError) as error:
        rewards.check_columns(["prompt", "levle"])
    assert [problem.code for problem in error.value.problems] == ["REWARD-E0205"] * 2
    assert "did you mean levle?" in str(error.value)


@pytest.mark.parametrize(
    ("given", "code_", "words"),
    [
        ("rewards.py:no_completions", "REWARD-E0206", r"no_completions\(prompts\)"),
        ("rewards.py:by_place", "REWARD-E0206", r"by_place\(completions, /, level\)"),
        ("rewards.py:by_place_only", "REWARD-E0206", "completions"),
        ("rewards.py:lenght", "DATA-E2202", r"did you mean length\?"),
        ("rewards.py", "DATA-E2202", "file.py:function"),
        ("absent.py:length", "URI-E0201", "nothing at"),
    ],
)
def test_a_function_is_checked_without_running_it(tmp_path, monkeypatch, code, given, code_, words):
    code.write_text("raise SystemExit(7)\n" + CODE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        check_rewards([given])
    assert [problem.code for problem in error.value.problems] == [code_]
    check_rewards(["rewards.py:raises"])


def test_a_file_that_cannot_be_loaded_names_its_line(code):
    code.write_text("import no_such_package\n" + CODE)
    with pytest.raises(UserError, match=rf"DATA-E2204 {re.escape(str(code))}:1"):
        load_rewards([f"{code}:length"])
