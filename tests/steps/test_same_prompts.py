"""What the training rows were written with, the prompts of the evaluation and the served model are written with."""

import json
import re
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import CHAT_TEMPLATE, build_tokenizer, write_jsonl
from reward_prompts import prepared_prompts, prompt_rows
from transformers import AutoTokenizer

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.evaluate.held_out import arrays, first_rows, read_held_out
from steps.finetune.loading import load_tokenizer
from steps.finetune.rewarded.prompts import read_prompts, row_of
from steps.params.settings import DataSettings, EvaluationSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.register_model.pyfunc_model import CausalModel
from steps.sources.storage import digest_of
from steps.tasks import grpo

WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tool(name: str) -> dict:
    parameters = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"enum": [1, 2]}}}
    return {"type": "function", "function": {"name": name, "description": "d <b>", "parameters": parameters}}


def turn(role: str, content: str | None, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def asked(question: str, answer: str) -> list[dict]:
    return [turn("user", question), turn("assistant", answer)]


def prepared(folder: Path, model: Path, rows: list[dict], template: str | None = None, **how: object) -> Path:
    """Prepare rows, of which the last ten are the test rows; `template` is the text of a template, or a name."""
    folder.mkdir(exist_ok=True)
    if template and "{" in template:
        (folder / "own.jinja").write_bytes(template.encode())
        template = str(folder / "own.jinja")
    files = {
        name: write_jsonl(folder / f"{name}.jsonl", part)
        for name, part in (("train", rows[:-10]), ("validation", rows[-10:]), ("test", rows[-10:]))
    }
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    preprocessing = {"chat_template": template or "keep", **how}
    settings = DataSettings(task="chat_completion", max_length=2048, preprocessing=preprocessing, **sources)
    prepare_data(settings, model, folder / "data", folder / "report.html")
    return folder / "data"


def held_out(data: Path, model: Path):
    return read_held_out(EvaluationSettings(task="chat_completion"), data, model)


def learned_text(data: Path, model: Path, row: int = 0) -> str:
    """Return a test row as it was learned."""
    [ids] = pq.read_table(data / "tokens/test.parquet").slice(row, 1)["input_ids"].to_pylist()
    return AutoTokenizer.from_pretrained(model).decode(ids)


class Told(CausalModel):
    """A registered model that returns its prompts."""

    def __init__(self, tokenizer: object):
        self.tokenizer = tokenizer
        self.reference = {"task": "chat_completion", "prompt_form": ["", ""], "max_new_tokens": 4}

    def _answer(self, texts, most, special):
        return texts


def served_prompts(data: Path, model: Path, given: object) -> list[str]:
    """Return the prompts of a model that was trained on the data."""
    return Told(load_tokenizer(model, data)).predict(None, given)


def test_the_tools_of_a_row_stand_in_its_prompts(tmp_path, tiny_model):
    call = {"type": "function", "function": {"name": "do", "arguments": {"z": "v", "a": 1}}}
    rows = [{"tools": [tool(f"do_{n}"), tool("b")], "messages": asked("Which tool?", f"do_{n}")} for n in range(28)]
    called = [turn("assistant", None, tool_calls=[call]), turn("tool", "4", tool_call_id="1")]
    rows.append({"messages": [turn("user", "Call"), *called, turn("assistant", "4")], "tools": [tool("do")]})
    rows.append({"messages": asked("No tool", "none")})
    data = prepared(tmp_path / "a", tiny_model, rows, WITH_TOOLS)
    prompts = held_out(data, tiny_model).prompts
    for place, prompt in enumerate(prompts):
        assert learned_text(data, tiny_model, place).startswith(prompt)
        assert ('"do_' in prompt) == (place < 8)
    asked_for = [{"messages": row["messages"][:-1], "tools": row.get("tools")} for row in rows[-10:]]
    assert served_prompts(data, tiny_model, pd.DataFrame(asked_for)) == prompts
    # As people send them: tools as JSON text, arguments of a call as JSON text, no content beside a call.
    text = json.dumps(call["function"]["arguments"])
    again = [turn("user", "Call"), {"role": "assistant", "tool_calls": [{**call, "function": {
        "name": "do", "arguments": text}}]}, called[1]]  # fmt: skip
    given = pd.DataFrame([{"messages": again, "tools": json.dumps([tool("do")])}])
    assert served_prompts(data, tiny_model, given) == [prompts[8]]


@pytest.mark.parametrize("tools", [{"name": "do"}, "3", 3])
def test_tools_that_are_no_list_are_refused(tools):
    with pytest.raises(ValueError, match=r"row 0: found .* in tools"):
        Told(None).predict(None, pd.DataFrame([{"messages": asked("a", "b")[:1], "tools": tools}]))


THINKING = CHAT_TEMPLATE.replace("{% generation %}", "{% generation %}<think>\n\n</think>\n\n")


@pytest.mark.parametrize("completions_only", [False, True])
def test_the_right_answer_is_what_the_template_writes_for_it(tmp_path, tiny_model, completions_only):
    import trl

    rows = [{"messages": asked(f"{n} + 1?", f"{n + 1}")} for n in range(30)]
    rows[-1]["messages"] = [*asked("1 + 1?", "2"), *asked("And 1?", "<think>\nMore.\n</think>\n\n3")]
    qwen = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text()
    for name, template in (("ours", THINKING), ("qwen", qwen)):
        data = prepared(tmp_path / name, tiny_model, rows, template, train_on_completions_only=completions_only)
        found = held_out(data, tiny_model)
        assert found.references[0] == "<think>\n\n</think>\n\n21"
        # An answer may have as many tokens as without a think block.
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        assert found.template_tokens == len(tokenizer("<think>\n\n</think>\n\n")["input_ids"])
        # TRL's copies with marks keep the think blocks of earlier answers, which Qwen's prompts leave out.
        for place, (prompt, answer) in enumerate(zip(found.prompts[:-1], found.references, strict=False)):
            assert learned_text(data, tiny_model, place).rstrip("\n") == f"{prompt}{answer}<|im_end|>"
        assert learned_text(data, tiny_model, 9).rstrip("\n").endswith(f"assistant\n{found.references[-1]}<|im_end|>")
    assert found.references[-1] == "<think>\nMore.\n</think>\n\n3"


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim"),
        CHAT_TEMPLATE.replace("{% generation %}{{", "{% generation %}{{ ' ' }}{{"),
        CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
    ],
    ids=["plain", "trims", "adds a blank", "asks otherwise"],
)
def test_a_template_that_adds_nothing_to_an_answer_leaves_its_text(tmp_path, tiny_model, template):
    rows = [{"messages": asked(f"{n} + 1?", f" {n + 1}\n")} for n in range(30)]
    found = held_out(prepared(tmp_path / "a", tiny_model, rows, template), tiny_model)
    assert found.references == [f" {n + 1}\n" for n in range(20, 30)]
    assert found.template_tokens == 0


CLOCK = "{{ strftime_now('%d %b %Y %H:%M:%S %%') }}{{ strftime_now(\"%-d\") }}" + CHAT_TEMPLATE


class Later(datetime):
    """A clock that is a day ahead at each look."""

    days = 0

    @classmethod
    def now(cls, tz=None):
        cls.days += 1
        return datetime(2031, 1, cls.days, 3, 4, 5, tzinfo=tz)


@pytest.mark.parametrize("own", [False, True], ids=["a file", "the model's own"])
@pytest.mark.parametrize("completions_only", [False, True])
def test_a_template_that_reads_the_clock_is_fixed_once(tmp_path, tiny_model, monkeypatch, own, completions_only):
    from transformers.utils import chat_template_utils

    import steps.prepare_data.write.settling as settling

    monkeypatch.setattr(settling, "datetime", Later)
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    monkeypatch.setattr(Later, "days", 0)
    model = tiny_model
    if own:
        model = tmp_path / "model"
        build_tokenizer(model)
        (model / "chat_template.jinja").write_text(CLOCK)
    rows = [{"messages": asked(f"{n} + 1?", f"{n + 1}")} for n in range(30)]
    data = prepared(tmp_path / "a", model, rows, None if own else CLOCK, train_on_completions_only=completions_only)
    [warning] = [one["what"] for one in read_manifest(data).facts["warnings"] if one["code"] == "DATA-W0811"]
    [day] = re.findall(r"2031-01-(\d\d) 03:04:05", warning)
    prompts = held_out(data, model).prompts
    assert prompts[0].startswith(f"{day} Jan 2031 03:04:05 %{int(day)}<|im_start|>")
    for place, prompt in enumerate(prompts):
        assert learned_text(data, model, place).startswith(prompt)
    saved = tmp_path / "saved"
    load_tokenizer(model, data).save_pretrained(saved)
    question = pd.DataFrame([{"messages": rows[20]["messages"][:1]}])
    assert Told(AutoTokenizer.from_pretrained(saved)).predict(None, question) == prompts[:1]


@pytest.mark.parametrize("template", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_a_template_that_draws_at_random_is_refused(tmp_path, tiny_model, template):
    with pytest.raises(UserError, match="DATA-E0821"):
        prepared(
            tmp_path / "a", tiny_model, [{"messages": asked("a", f"{n}")} for n in range(30)], template + CHAT_TEMPLATE
        )


@pytest.mark.parametrize("where", ["a file", "chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("form", ["\ufeff{}", "{}\ufeff", "\r\n"])
def test_a_mark_and_line_ends_of_windows_are_not_learned(tmp_path, where, form):
    model = tmp_path / "model"
    build_tokenizer(model)
    template = CHAT_TEMPLATE.replace("\n", form) if form == "\r\n" else form.replace("{}", CHAT_TEMPLATE)
    if where != "a file":
        (model / "chat_template.jinja").unlink()
    if where == "tokenizer_config.json":
        config = json.loads((model / where).read_text())
        (model / where).write_text(json.dumps({**config, "chat_template": template}))
    elif where == "chat_template.jinja":
        (model / where).write_bytes(template.encode())
    rows = [{"messages": asked(f"{n} + 1?", f"{n + 1}")} for n in range(30)]
    data = prepared(tmp_path / "a", model, rows, template if where == "a file" else None)
    [prompt, *_] = held_out(data, model).prompts
    assert prompt == "<|im_start|>user\n20 + 1?<|im_end|><|im_start|>assistant\n"
    assert learned_text(data, model) == f"{prompt}21<|im_end|>"
    assert served_prompts(data, model, "20 + 1?") == [prompt]
    codes = [warning["code"] for warning in read_manifest(data).facts["warnings"]]
    assert ("DATA-W0810" in codes) == ("\ufeff" in template)


TOOL_USE = "T:" + WITH_TOOLS


def with_named(folder: Path, place: str, **templates: str) -> Path:
    """Make a tokenizer with several templates, in its configuration or in files."""
    build_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    if place == "a list":
        file = folder / "tokenizer_config.json"
        told = [{"name": name, "template": text} for name, text in templates.items()]
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": told}))
        return folder
    (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        path = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        (folder / path).write_text(text)
    return folder


@pytest.mark.parametrize("place", ["a list", "files"])
def test_of_several_templates_each_row_gets_the_one_that_transformers_would_take(tmp_path, place):
    given = {"default": CHAT_TEMPLATE + "  ", "tool_use": TOOL_USE + "\n", "rag": "R"}
    model = with_named(tmp_path / "model", place, **given)
    rows = [{"messages": asked(f"{n} + 1?", f"{n + 1}")} for n in range(29)]
    rows.append({"messages": asked("Which?", "do"), "tools": [tool("do")]})
    data = prepared(tmp_path / "a", model, rows)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert set(tokenizer.chat_template) == set(given)
    for row, place_of in ((rows[-1], 9), (rows[-2], 8)):
        whole = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        assert learned_text(data, model, place_of) == whole
        prompt = tokenizer.apply_chat_template(
            row["messages"][:1], tools=row.get("tools"), tokenize=False, add_generation_prompt=True
        )
        assert held_out(data, model).prompts[place_of] == prompt
        asking = pd.DataFrame([{"messages": row["messages"][:1], "tools": row.get("tools")}])
        assert served_prompts(data, model, asking) == [prompt]


@pytest.mark.parametrize("place", ["a list", "files"])
def test_several_templates_without_a_default_are_told_and_one_can_be_chosen(tmp_path, place):
    model = with_named(tmp_path / "model", place, tool_use=WITH_TOOLS, rag="R")
    rows = [{"messages": asked(f"{n} + 1?", f"{n + 1}")} for n in range(30)]
    with pytest.raises(UserError) as refused:
        prepared(tmp_path / "a", model, rows)
    [problem] = refused.value.problems
    assert problem.code == "DATA-E0822"
    assert "rag, tool_use" in problem.found
    assert problem.fix == "set chat_template=rag"
    data = prepared(tmp_path / "b", model, rows, "tool_use")
    [prompt, *_] = held_out(data, model).prompts
    assert prompt == "<|im_start|>user\n20 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert learned_text(data, model).startswith(prompt)


OPENED = CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.mark.parametrize("template", [None, CLOCK, OPENED], ids=["the model's", "with a clock", "opens a thought"])
@pytest.mark.parametrize("instruction", ["", "Be brief. Ünïcödé 🙂"], ids=["", "with an instruction"])
def test_prompts_that_are_rewarded_are_the_same_tokens_in_every_step(tmp_path, tiny_model, template, instruction):
    rows = prompt_rows(60)
    own = [turn("system", "In verse."), turn("user", "1 + 1?"), turn("assistant", "2"), turn("user", " And 2?\n")]
    rows[-1]["problem"], rows[-2]["problem"] = own, [turn("user", "  What?  ")]
    how = {"columns": {"system_prompt": instruction}, "max_prompt_length": 200}
    if template:
        (tmp_path / "own.jinja").write_text(template)
        how["preprocessing"] = {"chat_template": str(tmp_path / "own.jinja")}
    data = prepared_prompts(tiny_model, tmp_path / "a", rows, **how)
    trained = [row_of(row).prompt_ids for row in read_prompts(data, "test")]
    asked = EvaluationSettings(task="grpo", method="grpo", columns=how["columns"])
    canonical, tokens = first_rows(asked, data, ["prompt_ids"])
    assert [ids.tolist() for ids in arrays(tokens["prompt_ids"])] == trained
    given = [grpo.training_row(row, grpo.Columns())["prompt"] for row in canonical.to_pylist()]
    assert given == [row_of(row).prompt for row in read_prompts(data, "test")]
    assert [given[-1], given[0][-1]] == [own, turn("user", "What comes after 48?")]
    assert [message["content"] for message in given[0][:-1]] == [instruction] * bool(instruction)
    # What a user sends to the registered model has no instruction.
    tokenizer = load_tokenizer(tiny_model, data)
    served = Told(tokenizer)
    served.reference |= {"task": "grpo", "chat": True, "system_prompt": instruction}
    texts = served.predict(None, [row["problem"] for row in rows[-12:]])
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == trained
    assert [tokenizer.decode(ids) for ids in trained] == texts
