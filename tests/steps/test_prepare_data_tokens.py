"""Tokens, labels and packed sequences equal those of TRL's SFTTrainer, row by row."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.packing import best_fit, pack
from steps.prepare_data.write.tokenising import Tokens, tokenise
from steps.sources import storage

WORDS = ["one", "two", "three", "France", "Paris", "fox", "again\n", "and\tthe", "of", "ü", "漢字", "user", "😀"]
MAX_LENGTH = 160


def text(draw, longest=12):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, longest))) + "."


def make_chats(count):
    """Chats of one to three exchanges, some with a system message; one in 250 has no room for an answer."""
    draw = random.Random(1)
    rows = []
    for number in range(count):
        messages = [{"role": "system", "content": text(draw, 5)}] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 3)):
            messages += [{"role": "user", "content": text(draw)}, {"role": "assistant", "content": text(draw)}]
        if number % 250 == 70:
            messages[-2]["content"] = messages[0]["content"] = "very " * 200
        rows.append({"messages": messages})
    return rows


def make_texts(count):
    draw = random.Random(2)
    return [{"text": text(draw) + draw.choice(["", "<|im_end|>", " "])} for _ in range(count)]


def make_prompts(count):
    """Prompts with and without a space at the seam, and letters that the tokenizer joins across it."""
    draw = random.Random(3)
    rows = [{"prompt": text(draw)[:-1] + draw.choice(["", " ", "\n"]), "completion": text(draw)} for _ in range(count)]
    for number in range(70, count, 250):
        rows[number]["prompt"] = "very " * 200
    return rows


MAKE = {"chat": make_chats, "text": make_texts, "prompts": make_prompts}


def ours(folder, tokenizer, rows, completions_only, packing, template="keep", **changes):
    """Run the step with `rows` as training rows and give the columns of tokens/train.parquet."""
    columns = {"text_key": "prompt", "ground_truth_key": "completion"} if "prompt" in rows[0] else {}
    train = write_jsonl(folder / "train.jsonl", rows)
    sources = {"train": train}
    for name in ("validation", "test"):
        sources[name] = write_jsonl(folder / f"{name}.jsonl", [_other(row, name) for row in rows[:20]])
    settings = DataSettings(
        task="chat_completion" if "messages" in rows[0] else "text_generation",
        columns=columns,
        **{name: Resolved(uri=str(file), digest=storage.digest_of(name, str(file))) for name, file in sources.items()},
        preprocessing={
            "train_on_completions_only": completions_only,
            "packing": packing,
            "chat_template": template,
            "batch_size": 130,
            **changes,
        },
        max_length=MAX_LENGTH,
    )
    prepare_data(settings, tokenizer, folder / "data", folder / "report.html")
    return pq.read_table(folder / "data/tokens/train.parquet").to_pydict()


def _other(row, name):
    """A row that differs from the training rows."""
    if "messages" in row:
        return {
            "messages": [*row["messages"], {"role": "user", "content": name}, {"role": "assistant", "content": "x"}]
        }
    return {key: f"{name} {value}" for key, value in row.items()}


def theirs(folder, model, rows, template=None, held_out=None, **arguments):
    """Build TRL's trainer on `rows` and give the columns of its training set; of the evaluation set with `held_out`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        str(folder / "trl"), max_length=MAX_LENGTH, use_cpu=True, bf16=False, report_to=[],
        chat_template_path=template, **arguments,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model), config, train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
    )  # fmt: skip
    return (trainer.eval_dataset if held_out else trainer.train_dataset).to_dict()


def assert_equal(made, expected):
    assert len(expected["input_ids"]) > 100
    for name in ("input_ids", "labels", "seq_lengths"):
        assert made.get(name) == expected.get(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "completions_only", "packing"),
    [
        ("chat", False, False),
        ("chat", True, False),
        ("text", False, False),
        ("prompts", False, False),
        ("prompts", True, False),
        pytest.param("chat", False, True, marks=pytest.mark.long),
        ("chat", True, True),
        ("text", False, True),
        pytest.param("prompts", False, True, marks=pytest.mark.long),
        pytest.param("prompts", True, True, marks=pytest.mark.long),
    ],
)
def test_tokens_and_labels_are_those_of_trl(tmp_path, tiny_model, shape, completions_only, packing):
    rows = MAKE[shape](1100 if packing else 300)  # TRL packs each thousand rows for themselves
    arguments = {"assistant_only_loss": completions_only} if shape == "chat" else {}
    if shape == "prompts":
        arguments = {"completion_only_loss": completions_only}
    expected = theirs(tmp_path, tiny_model, rows, packing=packing, **arguments)
    made = ours(tmp_path, tiny_model, rows, completions_only, packing)
    assert_equal(made, expected)
    if completions_only:
        assert any(-100 in labels for labels in made["labels"])
        if not packing:
            assert len(made["labels"]) < len(rows)  # a row without room for an answer is left out


@pytest.mark.slow
@pytest.mark.parametrize("completions_only", [False, True])
def test_a_well_known_template_without_marks_gets_those_of_trl(tmp_path, tiny_model, completions_only):
    import trl

    template = str(Path(trl.__file__).parent / "chat_templates/qwen3.jinja")
    rows = make_chats(300)
    expected = theirs(tmp_path, tiny_model, rows, template, assistant_only_loss=completions_only)
    made = ours(tmp_path, tiny_model, rows, completions_only, False, template)
    assert_equal(made, expected)
    # What later steps generate with is the template that was asked for, not its copy with marks.
    assert (tmp_path / "data/chat_template.jinja").read_text() == Path(template).read_text()


@pytest.mark.slow
def test_tool_calls_reach_the_template_as_they_do_in_trl(tmp_path, tiny_model):
    import trl

    template = str(Path(trl.__file__).parent / "chat_templates/qwen3.jinja")
    call = {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{number} + 1?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": f"{number + 1}"},
                {"role": "assistant", "content": f"It is {number + 1}."},
            ]
        }
        for number in range(150)
    ]
    expected = theirs(tmp_path, tiny_model, rows, template)
    assert_equal(ours(tmp_path, tiny_model, rows, False, False, template), expected)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of two numbers, <b>ü</b>",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
        },
    }
    for name in ("add", "product")
]


@pytest.mark.slow
@pytest.mark.parametrize("completions_only", [False, True])
def test_tools_are_listed_by_the_template_as_they_are_in_trl(tmp_path, tiny_model, completions_only):
    """Neighbours with the same tools, with others, with none; TRL reads them from JSON text."""
    import trl
    from transformers import AutoTokenizer

    template = (Path(trl.__file__).parent / "chat_templates/qwen3_training.jinja").read_text()
    (tmp_path / "qwen3.jinja").write_text(template)
    offered = [json.dumps(TOOLS), json.dumps(TOOLS), json.dumps(TOOLS[:1]), None, None]
    rows = [{**row, "tools": offered[number % 5]} for number, row in enumerate(make_chats(300))]
    for number in range(70, 300, 250):
        rows[number]["messages"] = rows[0]["messages"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    made = tokenise(tokenizer, rows, completions_only, template).cut(MAX_LENGTH)
    made = made.select(made.supervised() > 0)
    expected = theirs(tmp_path, tiny_model, rows, str(tmp_path / "qwen3.jinja"), assistant_only_loss=completions_only)
    pairs = list(pairwise(made.starts))
    columns = {"input_ids": made.ids, "labels": made.labels}
    assert_equal({name: [flat[a:b].tolist() for a, b in pairs] for name, flat in columns.items()}, expected)
    given = [{**row, "tools": json.loads(row["tools"]) if row["tools"] else None} for row in rows]
    as_lists = tokenise(tokenizer, given, completions_only, template).cut(MAX_LENGTH)
    assert as_lists.select(as_lists.supervised() > 0).ids.tolist() == made.ids.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "packing"),
    [
        ("chat-ml", False),
        pytest.param("chat-ml", True, marks=pytest.mark.long),
        pytest.param("mistral-with-system", False, marks=pytest.mark.long),
        ("mistral-with-system", True),
    ],
)
def test_long_chats_and_named_templates_are_those_of_trl(tmp_path, tiny_model, template, packing):
    """Up to eight exchanges with a system message, so that the cut falls into every part of a turn."""
    from steps.prepare_data.write.templates import NAMED

    draw = random.Random(4)
    rows = [{"messages": [{"role": "system", "content": text(draw, 5)}]} for _ in range(1100 if packing else 250)]
    for row in rows:
        for _ in range(draw.randint(1, 8)):
            row["messages"] += [{"role": role, "content": text(draw, 6)} for role in ("user", "assistant")]
    file = str(NAMED / f"{template}.jinja")
    expected = theirs(tmp_path, tiny_model, rows, file, assistant_only_loss=True, packing=packing)
    assert_equal(ours(tmp_path, tiny_model, rows, True, packing, template), expected)
    assert max(map(len, expected["input_ids"])) == MAX_LENGTH


@pytest.mark.slow
def test_a_tokenizer_that_adds_tokens_of_its_own_is_treated_as_in_trl(tmp_path, tiny_model):
    """BOS in front of a text, EOS behind a prompt: the prompt is no longer a prefix of the whole."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "with_bos"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)]
    )
    tokenizer.save_pretrained(folder)
    for shape, arguments in (("text", {}), ("prompts", {"completion_only_loss": True})):
        rows = MAKE[shape](300)
        expected = theirs(tmp_path, folder, rows, **arguments)
        assert expected["input_ids"][0][0] == 0
        assert_equal(ours(tmp_path, folder, rows, shape == "prompts", False), expected)


@pytest.mark.slow
def test_the_validation_split_is_packed_like_the_training_split_and_the_test_split_never(tmp_path, tiny_model):
    rows = make_chats(300)
    ours(tmp_path, tiny_model, rows, True, True)
    held_out = [_other(row, "validation") for row in rows[:20]]
    expected = theirs(tmp_path, tiny_model, rows, held_out=held_out, packing=True, assistant_only_loss=True)
    assert pq.read_table(tmp_path / "data/tokens/validation.parquet").to_pydict() == expected
    test = pq.read_table(tmp_path / "data/tokens/test.parquet")
    assert test.column_names == ["input_ids", "labels"]
    assert len(test) == len(pq.read_table(tmp_path / "data/rows/test.parquet"))


@pytest.mark.parametrize(("longest", "room"), [(30, 64), (64, 64), (3, 64), (9, 10)])
def test_rows_are_packed_as_trl_packs_them(longest, room):
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    draw = np.random.default_rng(longest)
    rows = [draw.integers(0, 1000, length).tolist() for length in draw.integers(0, longest + 1, 2300)]
    expected = pack_dataset(Dataset.from_dict({"input_ids": rows, "labels": rows}), room, "bfd").to_dict()
    made = {"input_ids": [], "labels": [], "seq_lengths": []}
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        flat = np.array([token for row in part for token in row], np.int32)
        packed = pack(Tokens(flat, flat, np.array([len(row) for row in part])), room)
        starts = packed.tokens.starts
        made["input_ids"] += [packed.tokens.ids[a:b].tolist() for a, b in pairwise(starts)]
        made["labels"] += [packed.tokens.labels[a:b].tolist() for a, b in pairwise(starts)]
        ends = np.concatenate(([0], np.cumsum(packed.rows_in)))
        made["seq_lengths"] += [packed.row_lengths[a:b].tolist() for a, b in pairwise(ends)]
    assert made == expected


def test_no_sequence_is_fuller_than_its_room_and_no_row_is_lost():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    bins = best_fit(lengths, 100)
    assert sorted(row for rows in bins for row in rows) == list(range(500))
    assert max(int(lengths[rows].sum()) for rows in bins) <= 100


def test_the_check_for_a_learned_stop_token_agrees_with_trl(tiny_model):
    import trl
    from transformers import AutoTokenizer
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    from steps.prepare_data.write.templates import stop_is_learned

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    outside = tokenizer.chat_template.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    folder = Path(trl.__file__).parent / "chat_templates"
    known = [
        (folder / f"{name}_training.jinja").read_text() for name in ("qwen3", "qwen2_5", "phi3", "gemma", "llama3")
    ]
    verdicts = []
    for template in (tokenizer.chat_template, outside, *known):
        verdicts.append(stop_is_learned(tokenizer, template))
        assert verdicts[-1] == is_chat_template_stop_token_trained(tokenizer, template)
    assert {True, False} == set(verdicts)
