"""The named chat templates: their text, label masks and required tokens."""

import pytest
from conftest import build_tokenizer, chat_rows, write_jsonl

from steps.errors import UserError
from steps.params.data import CHAT_TEMPLATES, TEMPLATE_TOKENS
from steps.params.reading import read_parameters
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.templates import NAMED, load_tokenizer, stop_is_learned
from steps.sources import storage

SPECIAL = ["<s>", "</s>", *{token for tokens in TEMPLATE_TOKENS.values() for token in tokens}]
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye."},
]
WRITTEN = {
    "chat-ml": (
        "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"
        "Hello.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nBye.<|im_end|>\n"
    ),
    "mistral-with-system": (
        "<s><<SYS>>\nBe kind.\n<</SYS>>\n[INST]  Hi  [/INST]Hello.</s> [INST] And? [/INST]Bye.</s> "
    ),
    "poro": (
        "<s><|system|>\nBe kind.</s><|user|>\n Hi </s><|assistant|>\nHello.</s><|user|>\nAnd?</s>"
        "<|assistant|>\nBye.</s>"
    ),
    "simplified-llama31": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBye.<|eot_id|>"
    ),
}
LEARNED = {
    "chat-ml": ["Hello.<|im_end|>", "Bye.<|im_end|>"],
    "mistral-with-system": ["Hello.</s>", "Bye.</s>"],
    "poro": ["Hello.</s>", "Bye.</s>"],
    "simplified-llama31": ["Hello.<|eot_id|>", "Bye.<|eot_id|>"],
}
ASKED = {
    "chat-ml": "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "mistral-with-system": "<s>[INST] Hi [/INST]",
    "poro": "<s><|user|>\nHi</s><|assistant|>\n",
    "simplified-llama31": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer that has the tokens of every template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("rich")
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_name_has_a_file_and_every_file_a_name():
    assert (
        {file.stem for file in NAMED.iterdir()}
        == set(TEMPLATE_TOKENS)
        == set(CHAT_TEMPLATES) - {"keep"}
        == set(WRITTEN)
    )


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_is_written_and_its_answers_are_marked(folder, name):
    tokenizer = load_tokenizer(folder, name)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == WRITTEN[name]
    made = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    learned = tokenizer.decode(
        [token for token, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark]
    )
    assert learned == "".join(LEARNED[name])
    assert stop_is_learned(tokenizer, None)


@pytest.mark.parametrize("name", ASKED)
def test_a_question_ends_where_the_answer_begins(folder, name):
    tokenizer = load_tokenizer(folder, name)
    asked = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == ASKED[name]
    answered = [*asked, {"role": "assistant", "content": "Hello."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False).startswith(prompt)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_template_cannot_write_is_refused_and_not_dropped(folder, name):
    from jinja2 import TemplateError

    tokenizer = load_tokenizer(folder, name)
    for message in ({"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "4"}):
        if message["role"] == "tool" and name in ("chat-ml", "simplified-llama31"):
            continue  # they write any role
        with pytest.raises(TemplateError, match=name):
            tokenizer.apply_chat_template([CHAT[1], message], tokenize=False)


def settings_for(file, name):
    source = Resolved(uri=str(file), digest=storage.digest_of("train_file_path", str(file)))
    preprocessing = {"chat_template": name, "train_on_completions_only": True}
    return DataSettings(task="chat_completion", train=source, max_length=128, preprocessing=preprocessing)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_named_template_prepares_rows_and_travels_with_them(tmp_path, folder, name):
    file = write_jsonl(tmp_path / "a.jsonl", chat_rows(60))
    facts = prepare_data(settings_for(file, name), folder, tmp_path / "data", tmp_path / "report.html").facts
    assert facts["template"] == name
    spoken = "".join(token["text"] for token in facts["samples"][0]["tokens"] if token["supervised"])
    assert spoken == LEARNED[name][0].replace("Hello.", "1.")
    assert (tmp_path / "data/chat_template.jinja").read_text() == (NAMED / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("name", "missing"),
    [("poro", "<|user|>, <|assistant|>"), ("simplified-llama31", "<|start_header_id|>, <|end_header_id|>, <|eot_id|>")],
)
def test_a_template_of_tokens_that_the_tokenizer_lacks_is_refused(tmp_path, tiny_model, chat_file, name, missing):
    with pytest.raises(UserError) as refused:
        prepare_data(settings_for(chat_file, name), tiny_model, tmp_path / "data", tmp_path / "report.html")
    [problem] = refused.value.problems
    assert (problem.code, problem.where) == ("DATA-E0811", "chat_template")
    assert problem.found == f"{name}, but the tokenizer has no {missing}"


def test_a_template_that_ends_turns_with_the_end_of_text_needs_one(tmp_path, chat_file):
    from transformers import AutoTokenizer

    build_tokenizer(tmp_path / "endless")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "endless")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    settings = settings_for(chat_file, "mistral-with-system")
    with pytest.raises(UserError, match="the tokenizer has no eos_token"):
        prepare_data(settings, tmp_path / "endless", tmp_path / "data", tmp_path / "report.html")


def test_the_names_that_other_systems_use_are_understood():
    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", "chat_template_name": "keep-original"}
    reading = read_parameters("chat_completion", given)
    assert reading.parameters.chat_template == "keep"
    assert len(reading.warnings) == 2
