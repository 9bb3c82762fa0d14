"""A message that is marked as not learned has no loss, whatever the chat template; reasoning is never lost silently."""

import json
from itertools import groupby
from pathlib import Path

import pytest
import trl
from checking import check_data
from conftest import CHAT_TEMPLATE, write_jsonl
from transformers import AutoTokenizer

from steps.errors import UserError
from steps.params.chat_columns import ChatColumns, PreferenceColumns
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.tokenising import tokenise
from steps.prepare_data.write.unlearned import mask_unlearned
from steps.sources import storage
from steps.tasks import load_task

TRL = Path(trl.__file__).parent / "chat_templates"
BARE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
TRIMMED = CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
OURS = {"ours": CHAT_TEMPLATE, "bare": BARE, "trimmed": TRIMMED}
NAMED = ("qwen3", "qwen2_5", "llama3", "gemma", "phi3", "deepseekv3", "glm4moe")
MARKS = [{"weight": 0}, {"train": False}, {"loss": False}, {"train_on_turn": False}, {"weight": "0"}, {"training": 0.0}]
TALK = [("user", "Say 1"), ("assistant", " wrong one "), ("user", "No"), ("assistant", "1")]


def say(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def template_of(name, completions_only):
    if name in OURS:
        return OURS[name]
    text = (TRL / f"{name}{'_training' if completions_only else ''}.jinja").read_text()
    return text.replace("bos_token", "''")  # the tiny tokenizer has none


def tokens_of(tokenizer, messages, name, completions_only):
    """Tokens of one conversation on its way from the user's row."""
    task = load_task("chat_completion")
    rules = ChatColumns()
    row = {"messages": [dict(message) for message in messages]}  # a new list: the check remembers the last one
    assert list(task.check_row(row, rules)) == []
    training = [task.training_row(task.canonical(row, rules), rules)]
    template = template_of(name, completions_only)
    made = tokenise(tokenizer, training, completions_only, template)
    return mask_unlearned(made, tokenizer, training, template, completions_only)


def learned(tokenizer, tokens):
    """The texts of the runs of tokens with loss."""
    pairs = zip(tokens.ids.tolist(), (tokens.labels != -100).tolist(), strict=True)
    return [
        tokenizer.decode([i for i, _ in run]) for is_learned, run in groupby(pairs, lambda pair: pair[1]) if is_learned
    ]


@pytest.fixture(scope="module")
def tokenizer(shared, tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize("name", [*OURS, *NAMED])
@pytest.mark.parametrize("marked", [1, 3])
def test_an_answer_that_is_not_learned_has_no_loss_and_the_others_keep_theirs(tokenizer, name, marked):
    plain = say(*TALK)
    usual = learned(tokenizer, tokens_of(tokenizer, plain, name, True))
    assert len(usual) == 2
    plain[marked]["weight"] = 0
    tokens = tokens_of(tokenizer, plain, name, True)
    assert learned(tokenizer, tokens) == [usual[marked == 1]]
    plain[marked].pop("weight")
    assert tokens.ids.tolist() == tokens_of(tokenizer, plain, name, True).ids.tolist()  # the template never sees it


@pytest.mark.parametrize("name", [*OURS, *NAMED])
def test_where_everything_is_learned_a_marked_message_is_not(tokenizer, name):
    talk = say(*TALK)
    whole = "".join(learned(tokenizer, tokens_of(tokenizer, talk, name, False)))
    talk[1]["weight"] = 0
    before, after = learned(tokenizer, tokens_of(tokenizer, talk, name, False))
    assert "wrong" not in before + after
    assert before.strip()
    assert whole.startswith(before)
    assert whole.endswith(after)
    hidden = whole[len(before) : len(whole) - len(after)]
    assert "wrong one" in hidden
    assert hidden.count("<|im_end|>") == (name in ("ours", "trimmed", "qwen3", "qwen2_5"))
    assert "No" in after
    assert "Say 1" in before


@pytest.mark.parametrize("mark", MARKS, ids=str)
def test_every_spelling_of_the_mark_is_the_same(tokenizer, mark):
    talk = say(*TALK)
    talk[1] |= mark
    assert learned(tokenizer, tokens_of(tokenizer, talk, "ours", True)) == ["1<|im_end|>"]
    shares = [
        {"from": {"user": "human", "assistant": "gpt"}[m.pop("role")], "value": m.pop("content"), **m} for m in talk
    ]
    assert learned(tokenizer, tokens_of(tokenizer, shares, "ours", True)) == ["1<|im_end|>"]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"train": True}, {"loss": None}, {"weight": 1.0}, {"weight": "1"}])
def test_a_message_marked_as_learned_is_as_any_other(tokenizer, mark):
    talk = say(*TALK)
    talk[1] |= mark
    assert len(learned(tokenizer, tokens_of(tokenizer, talk, "ours", True))) == 2


def test_calls_reasoning_and_adjacent_answers_are_masked_alone(tokenizer):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [*say(("user", "1 + 1?")), {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "2"}, *say(("assistant", "It is 2"))]  # fmt: skip
    [run] = learned(tokenizer, tokens_of(tokenizer, talk, "qwen3", True))
    assert "It is 2" in run
    assert "add" not in run
    talk = [*say(("user", "a"), ("assistant", "one"), ("assistant", "two"), ("assistant", "three"))]
    talk[2]["weight"] = 0
    runs = learned(tokenizer, tokens_of(tokenizer, talk, "bare", True))
    assert runs == ["one", "three"]


BAD = [
    ({"weight": 0.5}, "DATA-E0435", "found 0.5; expected 0 or 1, or true or false"),
    ({"weight": 2}, "DATA-E0435", "found 2"),
    ({"train": "no"}, "DATA-E0435", 'found "no"'),
    ({"weight": []}, "DATA-E0435", "found []"),
    ({"weight": 0, "train": True}, "DATA-E0436", "weight: 0, train: true"),
]


@pytest.mark.parametrize(("mark", "code", "words"), BAD)
def test_other_values_are_refused_in_words(tmp_path, mark, code, words):
    rows = [{"messages": say(("user", f"q{n}"), ("assistant", "a"))} for n in range(12)]
    rows[4]["messages"][1] |= mark
    with pytest.raises(UserError) as error:
        check_data("chat_completion", write_jsonl(tmp_path / "t.jsonl", rows), min_train_rows=1)
    assert code in str(error.value)
    assert words in str(error.value)
    assert ":5 (record 5) messages[1]" in str(error.value)


def test_rows_with_nothing_left_to_learn_are_a_fault_with_their_count(tmp_path):
    rows = [{"messages": say(("user", f"q{n}"), ("assistant", "a"))} for n in range(12)]
    for number in (2, 7):
        rows[number]["messages"][1]["weight"] = 0
    with pytest.raises(UserError, match=r"DATA-E0437 .*:3 \(record 3\) messages.*\(2 like this; first: 3, 8\)"):
        check_data("chat_completion", write_jsonl(tmp_path / "t.jsonl", rows), min_train_rows=1)


def told(checked):
    return {entry["code"]: entry["count"] for entry in checked.repairs + checked.warnings}


def test_marks_are_told_with_their_count(tmp_path):
    rows = [
        {"messages": say(("user", f"q{n}"), ("assistant", "a"), ("user", "b"), ("assistant", "c"))} for n in range(12)
    ]
    rows[1]["messages"][1]["weight"] = 0
    rows[2]["messages"][3]["weight"] = 0
    rows[3]["messages"][0]["train"] = True
    found = told(check_data("chat_completion", write_jsonl(tmp_path / "t.jsonl", rows), min_train_rows=1))
    assert (found["DATA-F0433"], found["DATA-W0434"]) == (2, 1)
    pairs = [
        {"prompt": f"q{n}", "chosen": say(("assistant", "a")), "rejected": say(("assistant", "b"))} for n in range(12)
    ]
    pairs[5]["chosen"][0]["weight"] = 0
    found = told(check_data("preference", write_jsonl(tmp_path / "p.jsonl", pairs), min_train_rows=1))
    assert found["DATA-W1531"] == 1
    task, rules = load_task("preference"), PreferenceColumns()
    assert "weight" not in json.dumps(task.training_row(task.canonical(pairs[5], rules), rules))


def test_an_answer_that_is_not_learned_is_no_reference():
    task, rules = load_task("chat_completion"), ChatColumns()
    assert task.question(task.canonical({"messages": say(*TALK)}, rules), rules)[1] == "1"
    talk = say(*TALK)
    talk[3]["weight"] = 0
    assert task.question(task.canonical({"messages": talk}, rules), rules) is None


def facts_of(tmp_path, model, rows, template=CHAT_TEMPLATE, task="chat_completion", **preprocessing):
    file = write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "chat.jinja").write_text(template)
    settings = DataSettings(
        task=task,
        train=Resolved(uri=str(file), digest=storage.digest_of("train_file_path", str(file))),
        max_length=200,
        preprocessing={"chat_template": str(tmp_path / "chat.jinja"), **preprocessing},
        **({"method": "dpo"} if task == "preference" else {}),
    )
    return prepare_data(settings, model, tmp_path / "data", tmp_path / "report.html").facts


READS = CHAT_TEMPLATE.replace("{% generation %}", "{% generation %}{{ message.get('reasoning_content') or '' }}")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_the_template_does_not_write_is_counted(tmp_path, tiny_model, key):
    rows = [{"messages": say(("user", f"q{n}"), ("assistant", "a"))} for n in range(40)]
    for row in rows[:7]:
        row["messages"][1][key] = "because"
    found = {w["code"]: w for w in facts_of(tmp_path, tiny_model, rows)["warnings"]}
    assert found["DATA-W0841"]["count"] == len(found["DATA-W0841"]["rows"]) + 2 == 7
    assert key in found["DATA-W0841"]["what"]


def test_reasoning_that_the_template_writes_is_learned(tmp_path, tiny_model):
    parts = [{"type": "thinking", "thinking": "because"}, {"type": "text", "value": "a"}]
    rows = [{"messages": [*say(("user", f"q{n}")), {"role": "assistant", "content": parts}]} for n in range(40)]
    facts = facts_of(tmp_path, tiny_model, rows, READS)
    assert "DATA-W0841" not in {w["code"] for w in facts["warnings"]}
    assert {r["code"]: r["count"] for r in facts["repairs"]}["DATA-F0432"] == 40
    assert "because" in "".join(token["text"] for token in facts["samples"][0]["tokens"])
