"""The plan determines the new tokens of a model, reports them, and refuses what cannot work."""

import json
from pathlib import Path

import pytest
from conftest import build_model, chat_rows, write_jsonl
from preferences import pair_rows

from steps import wire
from steps.errors import UserError
from steps.models.tokenizer_files import TokenizerFiles
from steps.params.settings import FinetuneSettings, ImportSettings
from steps.plan.step import plan


def bare(folder: Path, **changes) -> Path:
    """A model whose tokenizer knows neither ChatML's tokens nor one for padding."""
    folder.mkdir()
    build_model(folder, **changes)
    whole = json.loads((folder / "tokenizer.json").read_text())
    for token in whole["added_tokens"]:
        if token["content"].startswith("<|im"):
            token["content"] = token["content"].replace("im_", "other_")
            whole["model"]["vocab"][token["content"]] = token["id"]
    whole["model"]["vocab"] = {k: v for k, v in whole["model"]["vocab"].items() if not k.startswith("<|im_")}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|endoftext|>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def given(tmp_path):
    rows = write_jsonl(tmp_path / "chat.jsonl", chat_rows(60))
    return {
        "pytorch_model_path": str(bare(tmp_path / "base")),
        "train_file_path": str(rows),
        "mlflow_server_uri": "http://m:1",
    }


def planned(given, tmp_path, pipeline="chat_completion", **changes):
    made = plan(pipeline, {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    settings = ImportSettings.model_validate(wire.load(made.model))
    return settings, json.loads((tmp_path / "plan/plan.json").read_text()), made


def refusal(given, tmp_path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        planned(given, tmp_path, **changes)
    assert len(caught.value.problems) == 1, str(caught.value)
    return str(caught.value)


def told(summary) -> dict:
    return {line["name"]: (line["value"], line["how"]) for line in summary["arithmetic"]}


def test_the_tokens_of_a_template_are_added_where_the_tokenizer_lacks_them(given, tmp_path):
    settings, summary, _ = planned(given, tmp_path, chat_template="chat-ml")
    assert settings.new_tokens == ("<|im_start|>", "<|im_end|>")
    assert told(summary)["vocabulary"] == ("355 → 357", "new: <|im_start|>, <|im_end|>")
    assert "355 → 357" in (tmp_path / "plan.html").read_text()


def test_a_tokenizer_that_has_them_is_left_alone(given, tmp_path, tiny_model):
    settings, summary, _ = planned(given, tmp_path, pytorch_model_path=str(tiny_model), chat_template="chat-ml")
    assert settings.new_tokens == ()
    assert "vocabulary" not in told(summary)


def test_a_template_can_be_held_to_the_tokens_that_there_are(given, tmp_path):
    text = refusal(given, tmp_path, chat_template="chat-ml", add_template_tokens=False)
    assert "DATA-E0811 chat_template: found chat-ml, but the tokenizer has no <|im_start|>, <|im_end|>" in text


def test_tokens_are_named_as_text_or_as_a_list(given, tmp_path):
    for said in (["<|call|>", "a,b"], '["<|call|>", "a,b", "<|call|>"]'):
        settings, summary, _ = planned(given, tmp_path, additional_special_tokens=said)
        assert settings.new_tokens == ("<|call|>", "a,b")
        assert told(summary)["vocabulary"][0] == "355 → 357"
    settings, _, _ = planned(given, tmp_path, additional_special_tokens=" <|call|>, <|endoftext|> ,<|b|>")
    assert settings.new_tokens == ("<|call|>", "<|b|>")


@pytest.mark.parametrize("said", ["<|a|>,,<|b|>", "[1]", '["a", "a "]', '["a"', ","])
def test_a_text_that_is_no_list_of_tokens_is_refused(given, tmp_path, said):
    assert "PARAM-E0285" in refusal(given, tmp_path, additional_special_tokens=said)


def test_the_plan_says_when_the_embedding_has_room(given, tmp_path):
    model = bare(tmp_path / "padded", vocab_size=384)
    _, summary, _ = planned(given, tmp_path, pytorch_model_path=str(model), additional_special_tokens="<|call|>")
    assert told(summary)["vocabulary"] == ("355 → 356", "new: <|call|>; the embedding has 384 rows already")


def test_what_cannot_get_tokens_is_refused(given, tmp_path):
    source = Path(given["pytorch_model_path"])
    config = json.loads((source / "config.json").read_text())
    tokens = {"additional_special_tokens": "<|call|>"}
    (source / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    assert "PLAN-E0381" in refusal(given, tmp_path, **tokens)
    (source / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "vocab_size"}))
    assert "PLAN-E0344" in refusal(given, tmp_path, **tokens)
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text("{}")
    assert "PLAN-E0342" in refusal(given, tmp_path, **tokens)
    (source / "tokenizer.json").rename(source / "vocab.json")
    assert "PLAN-E0341" in refusal(given, tmp_path, **tokens)


def test_pipelines_whose_models_read_texts_refuse_new_tokens(given, tmp_path):
    rows = write_jsonl(tmp_path / "t.jsonl", [{"sentence1": f"a {n}", "label": "xy"[n % 2]} for n in range(60)])
    changes = {"pipeline": "text_classification", "train_file_path": str(rows), "additional_special_tokens": "<|a|>"}
    assert "PLAN-E0102 additional_special_tokens" in refusal(given, tmp_path, **changes)


@pytest.fixture
def adapter(given, tmp_path) -> Path:
    """An adapter for the base as it is, without the tokens."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given["pytorch_model_path"])
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"apply_lora": True, "peft_type": "ia3"}, "PLAN-E0346"),
        ({"apply_lora": True, "load_in_4bit": True}, "PLAN-E0343"),
        ({"adapter_path": "adapter", "adapter_use": "continue"}, "PLAN-E0347"),
        ({"pipeline": "preference", "reference_model_path": "base"}, "PLAN-E0348"),
    ],
)
def test_what_has_rows_for_the_old_tokens_only_is_refused(given, tmp_path, adapter, asked, code):
    rows = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(60))
    places = {"adapter": str(adapter), "base": given["pytorch_model_path"]}
    asked = {name: places.get(value, value) if isinstance(value, str) else value for name, value in asked.items()}
    if asked.get("pipeline") == "preference":
        asked["train_file_path"] = str(rows)
    assert code in refusal(given, tmp_path, additional_special_tokens="<|call|>", **asked)


def test_an_adapter_that_is_merged_first_may_get_tokens_afterwards(given, tmp_path, adapter):
    changes = {"adapter_path": str(adapter), "adapter_use": "merge", "additional_special_tokens": "<|call|>"}
    settings, _, _ = planned(given, tmp_path, **changes)
    assert settings.new_tokens == ("<|call|>",)


def test_dpo_with_new_tokens_is_warned_of_and_orpo_is_not(given, tmp_path):
    rows = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(60))
    changes = {"pipeline": "preference", "train_file_path": str(rows), "additional_special_tokens": "<|a|>"}
    warned = {}
    for method in ("dpo", "orpo"):
        _, summary, _ = planned(given, tmp_path, **changes, method=method)
        warned[method] = [line for line in summary["warnings"] if "has never seen <|a|>" in line]
    assert len(warned["dpo"]) == 1
    assert warned["orpo"] == []


def test_a_missing_padding_token_is_taken_as_asked(given, tmp_path):
    source = Path(given["pytorch_model_path"])
    settings, summary, made = planned(given, tmp_path)
    assert settings.padding_token == ""
    text = refusal(given, tmp_path, missing_pad_token_strategy="bos-repurpose")
    assert "PLAN-E0345 missing_pad_token_strategy: found bos-repurpose, but the tokenizer has no bos_token" in text
    files = TokenizerFiles.read(["tokenizer_config.json"], lambda name: (source / name).read_bytes())
    told_ = {**files.files["tokenizer_config.json"], "bos_token": "<|other_start|>", "unk_token": "<|other_end|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(told_))
    for strategy, token in (("bos", "<|other_start|>"), ("unk", "<|other_end|>")):
        settings, summary, made = planned(given, tmp_path, missing_pad_token_strategy=f"{strategy}-repurpose")
        assert settings.padding_token == token
        assert told(summary)["padding token"][0] == token
        assert not FinetuneSettings.model_validate(wire.load(made.training)).pads_with_end
    settings, _, made = planned(given, tmp_path, missing_pad_token_strategy="unk-convert-to-eos")
    assert settings.padding_token == "<|other_end|>"
    assert FinetuneSettings.model_validate(wire.load(made.training)).pads_with_end


def test_a_padding_token_that_is_there_stays(given, tmp_path, tiny_model):
    settings, _, made = planned(
        given, tmp_path, pytorch_model_path=str(tiny_model), missing_pad_token_strategy="unk-convert-to-eos"
    )
    assert settings.padding_token == ""
    assert not FinetuneSettings.model_validate(wire.load(made.training)).pads_with_end
