"""The texts that tell why a task of KFP failed keep their size and their shape, whatever the problems contain."""

import json
import random

import pytest

from steps.errors import Outage, Preempted, Problem, StepError, UserError
from steps.messages import COLUMNS, LINES, MEANINGS, MESSAGE_BYTES, columns, end_of_log, termination_message, wrapped

PATH = "s3://bucket/" + "a-folder/" * 300 + "train.jsonl"
ODD = {
    "plain": "nothing there",
    "empty": "",
    "long": "word " * 900,
    "one long word": "x" * 5000,
    "a path": PATH,
    "wide": "\u6f22\u5b57" * 900,
    "four bytes": "\U0001f600" * 900,
    "quotes": '"\\' * 900,
    "lines": "a\nb\r\nc\x00\x1b[31m\u2028d\n" * 90,
    "JSON": json.dumps({"a": ["b"] * 500}),
    "no UTF-8": "file-\udcff\ud800.jsonl",
    "combining": "e\u0301" * 900,
    "marks of a message": ". Fix: found expected because. Fix: " * 40,
}


def outcomes():
    for name, text in ODD.items():
        for part in ("where", "found", "expected", "fix", "why"):
            parts = {"where": "train.jsonl:3", "found": "a", "expected": "b", "fix": "c", "why": ""} | {part: text}
            for count in (1, 2, 40):
                problems = [Problem("X-E0001", **{**parts, "found": f"{number} {parts['found']}"}) for number in
                            range(count)]  # fmt: skip
                yield f"{name} {part} {count}", UserError(problems).as_json("register-model")
        yield f"{name} everywhere", UserError([Problem("X-E0001", *[text] * 4, why=text)] * 3).as_json("plan")
        yield f"{name} resume", Preempted(Problem("X-E0001", "a", "b", "c", "d"), text).as_json("finetune")


ALL = dict(outcomes())


@pytest.mark.parametrize("name", ALL)
def test_a_termination_message_is_a_sentence_and_whole_json_in_2047_bytes(name):
    outcome = ALL[name]
    message = termination_message(outcome)
    assert len(message.encode()) <= MESSAGE_BYTES == 2047
    sentence, line = message.split("\n")
    assert sentence.startswith(f"{outcome['step']} ended with code {outcome['code']} (")
    assert "X-E0001" in sentence
    assert " Fix: " in sentence
    told = json.loads(line)
    assert len(set(outcome["problems"])) == 1 + len(told["further_problems"]) + told["left_out"]
    assert sorted(told) == sorted([
        "code", "class", "step", "where", "found", "expected", "why", "fix", "retryable", "resume_from",
        "further_problems", "left_out",
    ])  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_the_end_of_a_log_is_a_block_of_few_short_lines(name):
    lines = end_of_log(ALL[name]).split("\n")
    assert all(columns(line) <= COLUMNS == 80 for line in lines)
    start = max(number for number, line in enumerate(lines) if line.startswith("ERROR"))
    assert len(lines) - start <= LINES == 30
    assert any(line.startswith("Fix:") for line in lines[start:])
    assert "\x1b" not in "".join(lines)
    told = "".join(lines).replace(" ", "")
    for problem in ALL[name]["problems"]:  # everything is in the log, whole
        assert (
            "".join(problem.encode("utf-8", "replace").decode().replace("\x00", "").replace("\x1b", "").split()) in told
        )


def test_random_texts_keep_the_bounds():
    chance = random.Random(1)
    letters = 'ab/:. "\\\n\u00e4\u6f22\U0001f600\t{}'

    def text() -> str:
        return "".join(chance.choices(letters, k=chance.choice((0, 1, 10, 100, 1000, 3000))))

    for _ in range(300):
        problems = [
            Problem(f"X-E{n:04}", text(), text(), text(), text(), why=text()) for n in range(chance.randint(1, 9))
        ]
        outcome = Outage(problems, text()).as_json("evaluate")
        message = termination_message(outcome)
        assert len(message.encode()) <= MESSAGE_BYTES
        told = json.loads(message.split("\n")[1])
        assert 1 + len(told["further_problems"]) + told["left_out"] == len(problems)
        lines = end_of_log(outcome).split("\n")
        assert max(map(columns, lines)) <= COLUMNS


def test_each_problem_stands_once():
    problems = [Problem(f"X-E000{n}", f"file-{n}", f"found-{n}", "a", "b") for n in range(4)]
    message = termination_message(UserError(problems).as_json("plan"))
    assert [message.count(str(problem)) for problem in problems] == [1] * 4
    line = message.split("\n")[1]
    assert [line.count(f"found-{n}") for n in range(4)] == [1] * 4
    assert json.loads(line)["left_out"] == 0
    lines = end_of_log(UserError(problems).as_json("plan"))
    assert [lines.count(f"found-{n}") for n in range(4)] == [1] * 4


def test_a_place_to_resume_is_kept_whole_or_left_out():
    found = Preempted(Problem("X-E0001", "a", "b", "c", "d"), "/checkpoints/checkpoint-900").as_json("finetune")
    assert json.loads(termination_message(found).split("\n")[1])["resume_from"] == "/checkpoints/checkpoint-900"
    found["resume_from"] = "/" + "long" * 1000
    assert json.loads(termination_message(found).split("\n")[1])["resume_from"] == ""


def test_long_words_are_broken_behind_a_separator():
    lines = wrapped(f"nothing at {PATH}")
    assert lines[0] == "nothing at"
    assert all(line.endswith("/") for line in lines[1:-1])
    assert "".join(lines[1:]) == PATH


def test_every_exit_code_has_a_meaning():
    kinds, codes = [StepError], set()
    while kinds:
        kind = kinds.pop()
        codes.add(kind.exit_code)
        kinds += kind.__subclasses__()
    assert set(MEANINGS) == codes
