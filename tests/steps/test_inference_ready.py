"""A tuned model stops at its end tokens, and the padding token does not hide the end of an answer."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl
from conftest import build_model, build_tokenizer, chat_rows
from preferences import pair_rows, prepared, rated_rows
from training_inputs import as_imported, settings_with, write_tokens

from steps.artifacts import new_artifact
from steps.finetune.inference import generation_settings, name_padding, save_tokenizer, set_end_of_turn, stops_anew
from steps.finetune.run import Run
from steps.kinds import load
from steps.prepare_data.write.templates import end_of_turn, load_tokenizer

TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"
# Which token ends what the assistant says, as the models' own cards and generation settings tell; templates that write
# the tokenizer's end token (or none) tell nothing new.
ENDS = {
    "chat-ml": "<|im_end|>", "simplified-llama31": "<|eot_id|>", "poro": "", "mistral-with-system": "",
    "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "llama3_2": "<|eot_id|>",
    "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "phi3": "", "cohere2": "<|END_OF_TURN_TOKEN|>",
    "lfm2": "<|im_end|>", "glm4moe": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A folder with a tokenizer that has the tokens of many templates."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("rich")
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    extra = ["<|user|>", "<|assistant|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<start_of_turn>",
             "<|START_OF_TURN_TOKEN|>", "<|END_RESPONSE|>", "<|CHATBOT_TOKEN|>", "[gMASK]", "<sop>"]  # fmt: skip
    tokenizer.add_tokens([*extra, *{end for end in ENDS.values() if end}], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_turn_is_found_in_the_template(rich, name):
    file = TRL_TEMPLATES / f"{name}.jinja"
    assert end_of_turn(load_tokenizer(rich, str(file) if file.is_file() else name)) == ENDS[name]


def test_a_template_that_refuses_such_turns_has_no_end_of_turn(rich):
    tokenizer = load_tokenizer(rich, "keep")
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert end_of_turn(tokenizer) == ""
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert end_of_turn(tokenizer) == ""


def data_with(folder: Path, **facts) -> Path:
    with new_artifact(folder, "data") as draft:
        draft.facts = facts
    return folder


def test_a_model_that_stops_there_already_keeps_its_end_token(tiny_model, rich, tmp_path):
    data = data_with(tmp_path / "data", end_of_turn="<|eot_id|>")
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = load_tokenizer(rich, "keep")
    number = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, number]}))
    set_end_of_turn(tokenizer, model, data)
    assert tokenizer.eos_token == "</s>"
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    set_end_of_turn(tokenizer, model, data)
    assert tokenizer.eos_token == "<|eot_id|>"
    says = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[number, 2]))
    assert stops_anew(says, model)
    assert not stops_anew(SimpleNamespace(generation_config=None), model)
    (model / "generation_config.json").unlink()
    (model / "config.json").write_text(json.dumps({"eos_token_id": [number, 2]}))
    assert not stops_anew(says, model)
    tokenizer = load_tokenizer(rich, "keep")
    set_end_of_turn(tokenizer, model, data)
    assert tokenizer.eos_token == "</s>"


def test_generation_settings_that_transformers_would_not_save_are_kept(tiny_model, tmp_path):
    from transformers import GenerationConfig

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.6, "eos_token_id": 2})
    )
    read = GenerationConfig.from_pretrained(model)
    read.eos_token_id = [5, 2]
    told = generation_settings(SimpleNamespace(generation_config=read), model)
    assert told == {"do_sample": False, "temperature": 0.6, "eos_token_id": [5, 2]}


def test_a_tokenizer_that_appends_an_end_token_is_saved_without_it(tmp_path):
    from tokenizers import processors
    from transformers import AutoTokenizer

    build_tokenizer(tmp_path / "ends")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ends")
    around = {"single": "<|im_start|> $A <|im_end|>", "pair": "<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
              "special_tokens": [("<|im_start|>", 1), ("<|im_end|>", 2)]}  # fmt: skip
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(**around)]
    )
    count = tokenizer("Count", add_special_tokens=False).input_ids
    assert tokenizer("Count").input_ids == [1, *count, 2]
    save_tokenizer(tokenizer, tmp_path / "goes on", ends_prompts=False)
    save_tokenizer(tokenizer, tmp_path / "reads", ends_prompts=True)
    again, reading = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("goes on", "reads"))
    assert again("Count").input_ids == [1, *count]
    assert again("Count", "Count").input_ids == [1, *count, *count]
    assert reading("Count").input_ids == [1, *count, 2]


def test_the_base_stops_at_the_end_of_turn_of_the_tuned_model_too(tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steps.generation.generating import end_tokens

    model, tokenizer = (kind.from_pretrained(tiny_model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert end_tokens(model, tokenizer) == [2]
    assert end_tokens(model, tokenizer, "<|im_start|>") == [1, 2]
    assert end_tokens(model, tokenizer, "<|not a token|>") == [2]


@pytest.fixture(scope="module")
def unpadded(tmp_path_factory):
    """A model whose tokenizer names no token for padding."""
    folder = tmp_path_factory.mktemp("unpadded") / "model"
    folder.mkdir()
    build_model(folder, pad_token_id=None)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "pad_token": None, "unk_token": "<|im_start|>"})
    )
    return folder


def batch_of(trainer) -> dict:
    """Collate the training rows that differ most in length."""
    rows = list(trainer.train_dataset)
    length = lambda row: sum(len(value) for value in row.values() if isinstance(value, list))  # noqa: E731
    columns = trainer._signature_columns or list(rows[0])
    pair = [min(rows, key=length), max(rows, key=length)]
    return trainer.data_collator(
        [{name: row[name] for name in row if name in columns or "ids" in name} for row in pair]
    )


def varied(rows: list[dict]) -> list[dict]:
    """Make the answers differ in length."""
    for number, row in enumerate(rows):
        for key in ("chosen", "rejected", "completion"):
            if key in row:
                row[key] = [{**row[key][0], "content": row[key][0]["content"] + " again" * (number % 5)}]
    return rows


@pytest.mark.parametrize("pads_with_end", [False, True])
@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "orpo", "cpo"])
def test_every_answer_keeps_its_end_where_the_end_token_pads(name, pads_with_end, unpadded, tmp_path):
    from transformers import AutoTokenizer

    model = as_imported(unpadded, tmp_path / "model")
    if pads_with_end:  # as import_model writes it for unk-convert-to-eos
        config = json.loads((model / "tokenizer_config.json").read_text())
        shutil.rmtree(model)
        source = Path(shutil.copytree(unpadded, tmp_path / "source"))
        (source / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<|im_start|>"}))
        model = as_imported(source, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(unpadded)
    if name == "sft":
        rows = chat_rows(60)
        for number, row in enumerate(rows):
            row["messages"][-1]["content"] += " again" * (number % 5)
        data = write_tokens(tmp_path / "data", tokenizer, rows)
    else:
        data = prepared(unpadded, tmp_path, varied((rated_rows if name == "kto" else pair_rows)(60)))
    settings = settings_with(preference=None if name == "sft" else {"method": name}, pads_with_end=pads_with_end)
    trainer = load(settings.recipe.trainer)(Run(settings, model, data, tmp_path / "checkpoints"))
    assert trainer.processing_class.pad_token == tokenizer.eos_token
    batch = batch_of(trainer)
    end = tokenizer.eos_token_id
    padded = 0
    for prefix in ("", "chosen_", "rejected_", "completion_"):
        ids, labels = batch.get(f"{prefix}input_ids"), batch.get(f"{prefix}labels")
        mask = batch.get(f"{prefix}attention_mask")
        if ids is None or mask is None:
            continue
        if labels is None:  # DPO and KTO mark the answer instead
            marks = batch[f"{prefix}completion_mask" if f"{prefix}completion_mask" in batch else "completion_mask"]
            labels = ids.where(marks.bool(), -100)
        for row, said, seen in zip(ids.tolist(), labels.tolist(), mask.tolist(), strict=True):
            real = sum(seen)
            assert end in said[:real]
            assert set(said[real:]) <= {-100}
            assert set(row[real:]) <= {end}
            padded += len(row) - real
    assert padded > 0
    if pads_with_end:
        name_padding(trainer.processing_class, trainer.model, model)
        assert trainer.processing_class.pad_token == "<|im_start|>"
        assert trainer.model.config.pad_token_id == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_a_target_keeps_its_end_where_the_end_token_pads(tmp_path):
    from encoder_decoders import build_bart
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

    build_bart(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    collator = DataCollatorForSeq2Seq(tokenizer, model, label_pad_token_id=-100)  # as the trainer makes it
    rows = [tokenizer("the red fox", text_target=answer) for answer in ("rema", "rema foku rema foku")]
    batch = collator([dict(row) for row in rows])
    for row, labels in zip(rows, batch["labels"].tolist(), strict=True):
        assert labels == [*row["labels"], *[-100] * (len(labels) - len(row["labels"]))]
        assert row["labels"][-1] == tokenizer.eos_token_id
