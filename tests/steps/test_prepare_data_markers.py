"""Answers found by the tokens before them, and the parameters for those tokens."""

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import build_tokenizer, write_jsonl

from steps.errors import UserError
from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.markers import Markers
from steps.prepare_data.write.tokenising import Tokens
from steps.sources import storage

A, Q = 90, 80  # the last token of a two-token marker; both begin with 7


def learned(rows, instruction=(7, Q)):
    """The tokens that are learned of each row."""
    flat = np.array([token for row in rows for token in row], np.int32)
    tokens = Tokens(flat, flat, np.array([len(row) for row in rows]))
    made = Markers([7, A], list(instruction)).learn(tokens)
    assert made.ids.tolist() == flat.tolist()
    starts = made.starts
    labels = [made.labels[a:b].tolist() for a, b in pairwise(starts)]
    for row, marked in zip(rows, labels, strict=True):
        assert all(label in (-100, token) for token, label in zip(row, marked, strict=True))
    return [[label for label in row if label != -100] for row in labels]


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ([1, 7, Q, 2, 7, A, 3, 4], [3, 4]),
        ([7, Q, 2, 7, A, 3, 7, Q, 4, 7, A, 5, 6], [3, 5, 6]),
        ([7, Q, 2, 7, A, 3, 7, Q, 4], [3]),  # the last question has no answer
        ([7, Q, 2, 7, A, 3, 7, Q], [3]),
        ([7, A, 3, 7, Q, 4, 7, A, 5], [3, 5]),  # it begins with an answer
        ([7, Q, 2, 7, A, 7, Q, 4, 7, A, 5], [5]),  # the first answer is empty
        ([7, Q, 2, 7, A], []),
        ([7, Q, 2, 3], []),
        ([7, A, 3, 4], []),  # no question: what it answers is not there
        ([7, Q, 2, A, 3], []),  # half a marker is none
        ([7, Q, 1, 7, Q, 2, 7, A, 3], [3]),  # two questions in a row
        ([7], []),
        ([], []),
    ],
)
def test_only_answers_are_learned(row, answers):
    assert learned([row]) == [answers]
    others = [[7, Q, 1, 7, A, 9], [7, A, 2]]
    assert learned([others[0], row, others[1]]) == [[9], answers, []]


def test_a_marker_does_not_reach_from_one_row_into_the_next():
    assert learned([[7, Q, 1, 7], [A, 5, 6]]) == [[], []]
    assert learned([[7, Q, 1, 7], [A, 5, 6]], instruction=()) == [[], []]
    assert learned([[7, Q, 1, 7], [A, 5, 7, Q, 6]]) == [[], []]


def test_without_question_marker_only_the_last_answer_is_learned():
    rows = [[1, 7, A, 2, 7, A, 3, 4], [5, 6], [7, A, 8], [1, 7, A]]
    assert learned(rows, instruction=()) == [[3, 4], [], [8], []]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return folder


def prepared(folder, tokenizer, rows, task="chat_completion", max_length=64, **preprocessing):
    file = write_jsonl(folder / "rows.jsonl", rows)
    source = Resolved(uri=str(file), digest=storage.digest_of("train_file_path", str(file)))
    settings = DataSettings(task=task, train=source, max_length=max_length, preprocessing=preprocessing)
    return prepare_data(settings, tokenizer, folder / "data", folder / "report.html").facts


def two_turns(count):
    return [
        {
            "messages": [
                {"role": role, "content": f"{word} {number}"}
                for word, role in (("a", "user"), ("b", "assistant"), ("c", "user"), ("d", "assistant"))
            ]
        }
        for number in range(count)
    ]


def spoken(sample):
    return "".join(token["text"] for token in sample["tokens"] if token["supervised"])


MARKERS = {"response_template": "<|im_start|>assistant\n", "instruction_template": "<|im_start|>user\n"}


def test_both_answers_of_a_chat_are_learned_with_their_ends(tmp_path, tokenizer):
    facts = prepared(tmp_path, tokenizer, two_turns(60), **MARKERS)
    assert spoken(facts["samples"][0]) == "b 0<|im_end|>d 0<|im_end|>"
    assert facts["splits"]["train"]["supervised_tokens"] < facts["splits"]["train"]["tokens"] / 2


def test_token_ids_with_commas_mean_the_same_as_their_text(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(tokenizer)
    ids = {name: ", ".join(map(str, fast.encode(text))) for name, text in MARKERS.items()}
    labels = []
    for name, markers in (("text", MARKERS), ("ids", {**ids, "comma_separated_template": True})):
        (tmp_path / name).mkdir()
        prepared(tmp_path / name, tokenizer, two_turns(60), **markers)
        labels.append(pq.read_table(tmp_path / name / "data/tokens/train.parquet")["labels"].to_pylist())
    assert labels[0] == labels[1]


def test_texts_have_markers_too_and_a_question_marker_may_be_left_out(tmp_path, tokenizer):
    rows = [{"text": f"### Ask: {number}\n### Say: {number + 1}"} for number in range(60)]
    facts = prepared(tmp_path, tokenizer, rows, "text_generation", response_template="### Say:")
    assert spoken(facts["samples"][0]) == " 1<|im_end|>"


def test_the_marker_is_looked_for_in_what_is_left_after_the_cut(tmp_path, tokenizer):
    """Where the second marker is cut off, the first is the last one."""
    rows = [{"text": f"### Say: {number}" + " x" * 30 * (number > 0) + "### Say: late"} for number in range(60)]
    facts = prepared(tmp_path, tokenizer, rows, "text_generation", max_length=30, response_template="### Say:")
    assert spoken(facts["samples"][0]) == " late<|im_end|>"
    assert spoken(facts["samples"][1]).rstrip().endswith(" x x x")


def test_rows_without_the_marker_are_counted_and_refused_above_one_percent(tmp_path, tokenizer):
    rows = [{"text": f"Ask {number}\n### Say: {number}"} for number in range(300)]
    for number in (17, 101, 255):
        rows[number]["text"] = f"Ask {number}"
    facts = prepared(tmp_path, tokenizer, rows, "text_generation", response_template="### Say:")
    [warning] = [warning for warning in facts["warnings"] if warning["code"] == "DATA-W0803"]
    assert (warning["count"], sorted(warning["rows"])) == (3, [18, 102, 256])
    assert sum(split["left_out"] for split in facts["splits"].values()) == 3
    with pytest.raises(UserError) as refused:
        prepared(tmp_path, tokenizer, rows[:299], "text_generation", response_template="### Say:")
    [problem] = refused.value.problems
    assert (problem.code, problem.count, sorted(problem.rows)) == ("DATA-E0803", 3, [18, 102, 256])
    assert "comma_separated_template=true" in problem.fix


def test_ids_that_the_tokenizer_does_not_have_are_refused(tmp_path, tokenizer):
    with pytest.raises(UserError) as refused:
        prepared(tmp_path, tokenizer, two_turns(60), response_template="1,99999", comma_separated_template=True)
    [problem] = refused.value.problems
    assert (problem.code, problem.where) == ("DATA-E0810", "response_template")


@pytest.mark.parametrize(
    ("given", "code", "where"),
    [
        ({"response_template": "A:", "train_on_completions_only": True}, "PARAM-E0281", "response_template"),
        ({"instruction_template": "Q:"}, "PARAM-E0282", "instruction_template"),
        ({"comma_separated_template": True}, "PARAM-E0282", "comma_separated_template"),
        ({"response_template": "A:", "comma_separated_template": True}, "PARAM-E0283", "response_template"),
        (
            {"response_template": "1,2", "instruction_template": "1,,2", "comma_separated_template": True},
            "PARAM-E0283",
            "instruction_template",
        ),
        ({"response_template": "-1", "comma_separated_template": True}, "PARAM-E0283", "response_template"),
    ],
)
def test_markers_that_contradict_each_other_are_refused_in_the_plan(given, code, where):
    [problem] = Preprocessing(**given).all_conflicts()
    assert (problem.code, problem.where) == (code, where)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"response_template": "A:"},
        {"response_template": "128006,78191, 128007", "instruction_template": "7", "comma_separated_template": True},
        {"train_on_completions_only": True},
    ],
)
def test_markers_that_make_sense_are_not(given):
    assert Preprocessing(**given).all_conflicts() == []
