"""Error messages have the same parts everywhere, as text and as JSON."""

import json

from steps.errors import Problem, UserError

PLAIN = Problem("PARAM-E0001", "lora_r", "0", "at least 1", "raise it")
REASONED = Problem("PARAM-E0002", "packing", "true", "false", "leave it out", why="each row is judged by itself")


def test_a_problem_is_told_in_one_sentence_and_one_action():
    assert str(PLAIN) == "PARAM-E0001 lora_r: found 0; expected at least 1. Fix: raise it."


def test_the_reason_stands_in_a_clause_of_its_own():
    assert str(REASONED) == (
        "PARAM-E0002 packing: found true; expected false, because each row is judged by itself. Fix: leave it out."
    )


def test_what_is_no_text_and_what_a_terminal_obeys_is_escaped():
    told = UserError(Problem("MODEL-E0106", "a\udcff.txt", "\ud800 \x1b[2J \u202egpj", "one\nline\tor two", "é 世界"))
    said = str(told)
    assert r"a\udcff.txt: found \ud800 \x1b[2J \u202egpj" in said
    assert "one\nline\tor two. Fix: é 世界." in said
    assert json.dumps(told.as_json("plan"), ensure_ascii=False).encode()


def test_many_problems_of_one_kind_keep_their_reason():
    many = Problem("DATA-E0003", "t.jsonl:1", "a", "b", "did you mean b?", (1, 4), 1200, why="c")
    assert str(many) == (
        "DATA-E0003 t.jsonl:1: found a; expected b, because c. Fix: did you mean b? (1,200 like this; first: 1, 4)"
    )


def test_programs_get_the_parts_of_the_first_problem_and_every_sentence():
    told = UserError([REASONED, PLAIN]).as_json("plan")
    assert [told[part] for part in ("where", "found", "expected", "why", "fix")] == [
        "packing", "true", "false", "each row is judged by itself", "leave it out",
    ]  # fmt: skip
    assert told["problems"] == [str(REASONED), str(PLAIN)]
    assert told["code"] == 2
    assert UserError(PLAIN).as_json("plan")["why"] == ""
