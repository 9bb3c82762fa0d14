"""Preferences, rated answers and rewarded questions: what is refused, what is repaired, and the trainers' inputs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import Case, check_verdict
from datasets import Dataset
from trl.data_utils import is_conversational, maybe_extract_prompt, unpair_preference_dataset

from steps.errors import UserError
from steps.prepare_data.alone import check_alone
from steps.prepare_data.check.rows import read_back
from steps.tasks import load_task


def user(content="2 + 2?"):
    return {"role": "user", "content": content}


def bot(content="4"):
    return {"role": "assistant", "content": content}


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


def pairs(*rows):
    """The given rows at record 2 and further, good ones around them."""
    good = [{"prompt": f"{n} + 1? ", "chosen": str(n + 1), "rejected": "no"} for n in range(4)]
    return lines(good[0], *rows, *good[1:])


def pair(chosen, rejected, **more):
    return {"chosen": chosen, "rejected": rejected, **more}


TALK = pair([user(), bot()], [user(), bot("5")])
SECOND = ":2 (record 2)"

PREFERENCES = [
    Case(97, "equal texts", pairs(pair("4", "4", prompt="2 + 2? ")), "DATA-E1501", f"{SECOND} rejected", '"4"'),
    Case(97, "equal conversations", pairs(*[pair([user(), bot()], [user(), bot()])] * 2), "DATA-E1501",
         f"{SECOND} rejected", "(2 like this; first: 2, 3)", count=2),
    Case(97, "equal messages behind a prompt", pairs(pair([bot()], [bot()], prompt=[user()])), "DATA-E1501",
         f"{SECOND} rejected"),
    Case(98, "empty chosen", pairs(pair("", "5", prompt="2 + 2? ")), "DATA-E0603", f"{SECOND} chosen", '""'),
    Case(98, "chosen message without text", pairs(pair([bot(" ")], [bot()], prompt=[user()])), "DATA-E0406",
         f"{SECOND} chosen[0].content"),
    Case(98, "chosen without a message", pairs(pair([], [bot()], prompt=[user()])), "DATA-E0402", f"{SECOND} chosen"),
    Case(94, "null chosen", pairs(pair(None, "5", prompt="2 + 2? ")), "DATA-E0602", f"{SECOND} chosen", "null"),
    Case(99, "chosen_response in jsonl", lines(*[{"prompt": "a", "chosen_response": "b", "rejected": "c"}] * 4),
         "DATA-E0601", ":1 (record 1) chosen", "did you mean 'chosen_response'?", count=4),
    Case(99, "chosen_response in csv", "prompt,chosen_response,rejected\na,b,c\n", "DATA-E0601", ":1 chosen",
         "did you mean 'chosen_response'?", name="train.csv"),
    Case(100, "chosen is only the prompt", pairs(pair([user()], [user(), bot()])), "DATA-E1504", f"{SECOND} chosen",
         "no message after the prompt"),
    Case(100, "chosen ends with the user", pairs(pair([user("x")], [bot()], prompt=[user(), bot()])), "DATA-E1504",
         f"{SECOND} chosen", "roles user"),
    Case(100, "rejected without an answer", pairs(pair([user(), bot()], [user(), user("so?")])), "DATA-E1504",
         f"{SECOND} rejected", "roles user"),
    Case(79, "prompt and answer are both the user's", pairs(pair([user("b"), bot()], [bot()], prompt=[user()])),
         "DATA-E0409", f"{SECOND} chosen[0].role"),
    Case(0, "no prompt and no shared start", pairs(pair([user("a"), bot()], [user("b"), bot()])), "DATA-E1503",
         f"{SECOND} prompt", "start differently"),
    Case(0, "shared start", lines(*[pair([user(f"{n}")], [user(f"{n}")]) for n in range(0)],
                                  *[pair([user(f"{n}"), bot()], [user(f"{n}"), bot("5")]) for n in range(5)]),
         "DATA-F1503", count=5),
    Case(0, "a text beside messages", pairs(pair("4", "5", prompt=[user()])), "DATA-F1501"),
    Case(0, "answers that repeat the prompt", pairs({**TALK, "prompt": [user()]}), "DATA-F1502"),
    Case(0, "the names of seed 3", lines(*[{"prompt_messages": [user(f"{n}")], "chosen_messages": [bot()],
         "rejected_messages": [bot("5")]} for n in range(5)]), ""),
    Case(0, "the names of seed 3 in csv", "prompt_messages,chosen_messages,rejected_messages\n" + "\n".join(
         f"{n}? ,yes,no" for n in range(5)), "", name="train.csv"),
    Case(6, "U+0000 in a text, strict", pairs(pair("a\0", "5", prompt="2 + 2? ")), "DATA-E0413", f"{SECOND} chosen",
         options={"strict": True}),
    Case(93, "no space at the seam", pairs(pair("4", "5", prompt="2 + 2?")), "DATA-W0601"),
    Case(82, "an unknown role in an answer", pairs(pair([{**bot(), "role": "gpt"}], [bot("5")], prompt=[user()])),
         "DATA-E0412", f"{SECOND} chosen[0].role", "role_map=gpt=assistant"),
]  # fmt: skip


@pytest.mark.parametrize("case", PREFERENCES, ids=str)
def test_a_pair_is_judged_as_the_catalogue_says(case, tmp_path):
    check_verdict(case, tmp_path, "preference")


def ratings(*rows, good=3, bad=3):
    both = [{"prompt": f"{n}? ", "completion": "yes", "label": n < good} for n in range(good + bad)]
    return lines(*both[:1], *rows, *both[1:])


def rating(label, completion="4", prompt="2 + 2? "):
    return {"prompt": prompt, "completion": completion, "label": label}


RATINGS = [
    Case(101, "label 2", ratings(rating(2)), "DATA-E1511", f"{SECOND} label", "found 2;"),
    Case(101, "label 1 and 0", ratings(rating(1), rating(0, "5")), "DATA-F1511", count=2),
    Case(101, "label as a word", ratings(rating("good")), "DATA-E1511", f"{SECOND} label", '"good"'),
    Case(50, "TRUE in csv", "prompt,completion,label\na ,b,true\nc ,d,TRUE\ne ,f,false\n", "DATA-E1511",
         ":3 (record 2) label", "true or false", name="train.csv"),
    Case(50, "true in csv", "prompt,completion,label\n" + "\n".join(f"a{n} ,b,{n % 2 == 0}".lower() for n in range(6)),
         "", name="train.csv"),
    Case(102, "only good answers", ratings(good=6, bad=0), "DATA-E1512", ":1 (record 1) label", "label false", count=6),
    Case(102, "21 good answers for a bad one", ratings(good=42, bad=2), "DATA-W1513", says="42 good and 2 bad",
         count=2),
    Case(102, "20 good answers for each bad one", ratings(good=40, bad=2), ""),
    Case(103, "null label", ratings(rating(None)), "DATA-E1511", f"{SECOND} label", "found null"),
    Case(92, "empty completion", ratings(rating(True, "")), "DATA-E0603", f"{SECOND} completion"),
    Case(94, "a number as prompt", ratings(rating(True, prompt=4)), "DATA-E0602", f"{SECOND} prompt", "not a number"),
    Case(100, "completion without an answer", ratings(rating(True, [user("b")], [user(), bot()])), "DATA-E1504",
         f"{SECOND} completion"),
    Case(0, "a text beside messages", ratings(rating(True, "4", [user()])), "DATA-F1501"),
    Case(0, "no label column", lines(*[{"prompt": "a", "completion": "b", "Label": True}] * 3), "DATA-E0601",
         ":1 (record 1) label", "did you mean 'Label'?", count=3),
]  # fmt: skip


@pytest.mark.parametrize("case", RATINGS, ids=str)
def test_a_rated_answer_is_judged_as_the_catalogue_says(case, tmp_path):
    check_verdict(case, tmp_path, "kto")


def problems(*rows):
    good = [{"problem": f"{n} + 1000?", "solution": f"{n + 1000}"} for n in range(4)]
    return lines(good[0], *rows, *good[1:])


QUESTIONS = [
    Case(121, "the prompt holds the answer", problems({"problem": "Is Paris or Rome in France?", "solution": "Paris"}),
         "DATA-W1523"),
    Case(121, "the prompt announces a short answer", problems({"problem": "2 + 2? Answer: 4", "solution": "4"}),
         "DATA-W1523"),
    Case(121, "a number of the question is the answer", problems({"problem": "4 + 0?", "solution": "4"}), ""),
    Case(122, "ground truth missing in some rows", problems({"problem": "a?"}, {"problem": "b?", "solution": None}),
         "DATA-E1522", ":2 (record 2) solution", "2 of 6 rows", count=2),
    Case(122, "ground truth missing in the validation file", problems(), "DATA-E1522", ":1 (record 1) solution",
         "2 of 2 rows", validation=lines({"problem": "a?"}, {"problem": "b?"}), count=2),
    Case(122, "mixed types", problems({"problem": "2 + 2?", "solution": 4}), "DATA-F1521"),
    Case(122, "ground truth missing in every row", lines(*[{"problem": f"{n}?"} for n in range(5)]), ""),
    Case(122, "a named ground truth that is missing", "problem,solution\na,b\n", "DATA-E0601", ":1 answer",
         "dataset_ground_truth_column", name="train.csv", options={"dataset_ground_truth_column": "answer"}),
    Case(0, "no prompt column", lines(*[{"question": "a", "solution": "b"}] * 2), "DATA-E0601", ":1 (record 1) problem",
         "dataset_prompt_column", count=2),
    Case(0, "prompt stands in for problem", lines(*[{"prompt": f"{n}?", "solution": "b"} for n in range(5)]), ""),
    Case(0, "a prompt that ends with an answer", problems({"problem": [user(), bot()], "solution": "4"}), "DATA-E1521",
         f"{SECOND} problem[1].role"),
    Case(80, "an empty prompt", problems({"problem": " ", "solution": "4"}), "DATA-E0603", f"{SECOND} problem"),
]  # fmt: skip


@pytest.mark.parametrize("case", QUESTIONS, ids=str)
def test_a_rewarded_question_is_judged_as_the_catalogue_says(case, tmp_path):
    check_verdict(case, tmp_path, "grpo")


def verl_row(index, **more):
    return {"data_source": "openai/gsm8k", "prompt": [user(f"{index}?")], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": index}, **more}  # fmt: skip


def verl(*rows):
    return lines(verl_row(0), *rows, *(verl_row(n) for n in range(2, 6)))


def without(name):
    return lines(*({key: value for key, value in verl_row(n).items() if key != name} for n in range(5)))


PLAIN = {"question_key": "question", "answer_key": "answer", "data_source": "openai/gsm8k"}
PLAIN_CSV = "question,answer\n" + "\n".join(f"{n}?,{n}" for n in range(6))
VERL = [
    *(Case(124, f"no {name}", without(name), "DATA-E0601", f":1 (record 1) {name}", count=5)
      for name in ("data_source", "prompt", "reward_model")),
    Case(124, "no ability", without("ability"), ""),
    Case(124, "reward_model without both", verl(verl_row(1, reward_model={})), "DATA-E1533",
         f"{SECOND} reward_model.style", "style and ground_truth"),
    Case(124, "reward_model without ground_truth", verl(verl_row(1, reward_model={"style": "rule"})), "DATA-E1533",
         f"{SECOND} reward_model.ground_truth", "no value for ground_truth"),
    Case(124, "reward_model as a text", verl(verl_row(1, reward_model="4")), "DATA-E1532", f"{SECOND} reward_model"),
    Case(124, "prompt as a text", verl(verl_row(1, prompt="1?")), "DATA-F1532"),
    Case(125, "unknown data source", verl(verl_row(1, data_source="openai/gsm9k")), "DATA-E1531",
         f"{SECOND} data_source", "did you mean openai/gsm8k?"),
    Case(125, "a data source without its owner", verl(verl_row(1, data_source="gsm8k")), "DATA-E1531",
         f"{SECOND} data_source", "did you mean openai/gsm8k?"),
    Case(125, "unknown data source with a reward function", verl(verl_row(1, data_source="mine")), "",
         options={"custom_reward_function_path": "reward.py"}),
    Case(125, "a year of aime", verl(verl_row(1, data_source="aime2025")), ""),
    Case(126, "no extra_info.index", verl(verl_row(1, extra_info={"level": 1})), "DATA-F1534"),
    Case(126, "no extra_info", without("extra_info"), "DATA-F1534", count=5),
    Case(126, "an index given twice", verl(verl_row(0, ability="art")), "DATA-W1535", count=2),
    Case(0, "extra_info as a list", verl(verl_row(1, extra_info=[1])), "DATA-E1534", f"{SECOND} extra_info"),
    Case(88, "images", verl(verl_row(1, images=["a.png"])), "DATA-E1537", f"{SECOND} prompt"),
    Case(122, "a number as ground truth", verl(verl_row(1, reward_model={"style": "rule", "ground_truth": 4})),
         "DATA-F1533"),
    Case(0, "a plain file", PLAIN_CSV, "DATA-F1534", name="train.csv", options=PLAIN, count=6),
    Case(0, "a plain file without an answer", PLAIN_CSV + "\n7?,", "DATA-E1533", ":8 (record 7) answer",
         name="train.csv", options=PLAIN),
]  # fmt: skip


@pytest.mark.parametrize("case", VERL, ids=str)
def test_a_verl_row_is_judged_as_the_catalogue_says(case, tmp_path):
    check_verdict(case, tmp_path, "verl")


def training(task, row, **columns):
    """What a raw row becomes on its way through a parquet file of canonical rows."""
    module = load_task(task)
    options = module.Columns(**columns)
    assert list(module.check_row(row, options)) == []
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([module.canonical(row, options)], module.SCHEMA), sink)
    [back] = read_back(pq.read_table(pa.BufferReader(sink.getvalue())))
    return module.training_row(back, module.Columns())


IMPLICIT = [
    TALK,
    pair([user("a"), bot("b"), user("c"), bot("d")], [user("a"), bot("b"), user("c"), bot("e")]),
    pair([user("a"), bot("b"), user("c"), bot("d")], [user("a"), bot("x"), user("c"), bot("e")]),
    {**TALK, "prompt": "2 + 2?"},  # as in UltraFeedback: the text stands inside both answers again
    pair("Human: 2 + 2? Bot: 4", "Human: 2 + 2? Bot: five"),
    {"prompt": [user()], **pair([bot()], [bot("5")])},
    {"prompt": "2 + 2? ", **pair("4", "5")},
]


@pytest.mark.parametrize("row", IMPLICIT)
def test_a_pair_becomes_what_trl_makes_of_it(row):
    given = training("preference", row)
    theirs = maybe_extract_prompt(json.loads(json.dumps(row)))
    assert given == {name: theirs[name] for name in ("prompt", "chosen", "rejected")}
    assert is_conversational(given) == (type(given["prompt"]) is list)


def test_a_pair_of_any_spelling_becomes_the_same_messages():
    meant = {"prompt": [user()], "chosen": [bot()], "rejected": [bot("5")]}
    for row in (
        meant,
        TALK,
        {**TALK, "prompt": [user()]},
        {**meant, "prompt": "2 + 2?"},
        {**meant, "chosen": "4", "rejected": "5"},
        {f"{name}_messages": part for name, part in meant.items()},
        {name: json.dumps(part) for name, part in meant.items()},
        {**meant, "chosen": [{"from": "gpt", "value": "4"}]},
    ):
        assert training("preference", row) == meant


def test_rated_answers_are_rows_as_trl_splits_pairs_into():
    for row in (IMPLICIT[-1], IMPLICIT[-2]):
        theirs = list(unpair_preference_dataset(Dataset.from_list([row])))
        for their_row in theirs:
            given = training("kto", their_row)
            assert given == their_row
            assert is_conversational(given) == is_conversational(their_row)


@pytest.mark.parametrize(("label", "meant"), [(1, True), (0, False), (1.0, True), ("true", True), ("0", False)])
def test_a_label_is_true_or_false_whatever_it_was(label, meant):
    assert training("kto", rating(label))["label"] is meant


def test_reward_functions_get_every_column():
    row = {"problem": "2 + 2?", "solution": 4, "level": 1, "tags": ["sum"], "messages": [], "source": None}
    assert training("grpo", row) == {
        "prompt": [user()], "ground_truth": "4", "solution": 4, "level": 1, "tags": ["sum"], "source": None
    }  # fmt: skip
    named = training("grpo", {"q": [user()], "a": "4"}, dataset_prompt_column="q", dataset_ground_truth_column="a")
    assert named == {"prompt": [user()], "ground_truth": "4", "a": "4"}
    assert is_conversational(named)


def test_verl_rows_stay_as_they_are_and_plain_questions_become_such():
    assert training("verl", verl_row(3)) == verl_row(3)
    made = training("verl", {"question": "2 + 2?", "answer": 4}, **PLAIN)
    index = made.pop("extra_info")
    assert made == {"data_source": "openai/gsm8k", "prompt": [user()], "ability": None,
                    "reward_model": {"style": "rule", "ground_truth": "4"}}  # fmt: skip
    assert training("verl", {"question": "2 + 2?", "answer": 4}, **PLAIN)["extra_info"] == index
    assert training("verl", {"question": "2 + 3?", "answer": 5}, **PLAIN)["extra_info"] != index
    found = verl_row(1, data_source="searchR1_nq", reward_model={"style": "rule", "ground_truth": {"target": ["x"]}})
    assert training("verl", found) == found


def test_the_question_of_a_row_is_its_prompt_with_the_good_answer():
    for task, row, asked in (
        ("preference", TALK, ([user()], "4")),
        ("preference", IMPLICIT[-1], ("2 + 2? ", "4")),
        ("kto", rating(True), ("2 + 2? ", "4")),
        ("kto", rating(False), None),
        ("grpo", {"problem": "2 + 2?", "solution": "4"}, ([user()], "4")),
        ("grpo", {"problem": "2 + 2?"}, None),
        ("verl", verl_row(1), ([user("1?")], "4")),
    ):
        module = load_task(task)
        assert module.question(module.canonical(row, module.Columns()), module.Columns()) == asked


def test_half_a_plain_file_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text(PLAIN_CSV)
    with pytest.raises(UserError) as error:
        check_alone("verl", str(tmp_path / "t.csv"), options={"question_key": "question"})
    assert "answer_key: found nothing" in str(error.value)


@pytest.mark.parametrize("task", ["chat_completion", "preference", "kto", "grpo", "verl"])
def test_every_column_can_be_set_without_a_run(task, tmp_path):
    """-p gives texts; each field must be read from one, and reach the check."""
    others = {"role_map": "bot=user", "row_form": "auto"}
    options = {name: "true" if field.annotation is bool else others.get(name, "column")
               for name, field in load_task(task).Columns.model_fields.items()}  # fmt: skip
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n' * 20)
    with pytest.raises(UserError) as error:
        check_alone(task, str(tmp_path / "t.jsonl"), options=options)
    assert {problem.code for problem in error.value.problems} == {"DATA-E0601"}
    assert "'column'" in str(error.value)
