"""New tokens from import to merge: with an adapter, their rows of the embedding are trained and no others."""

import json
from pathlib import Path

import pytest
from conftest import chat_rows
from merge_inputs import differing, merged_by_peft, tensors_of
from preferences import pair_rows, prepared, rated_rows
from test_import_new_tokens import BASES, bring
from training_inputs import TRAINING

from steps.finetune.step import finetune
from steps.merge_adapter.step import merge_adapter
from steps.models.embeddings import is_vocabulary
from steps.models.weights import stored_tensors
from steps.params.settings import DataSettings, FinetuneSettings, Resolved
from steps.params.training import TrainingParams
from steps.prepare_data.step import prepare_data

pytestmark = pytest.mark.slow

TEMPLATE_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")  # of simplified-llama31
NEW = [355, 356, 357]


def qwen(folder: Path) -> None:
    """Build a Qwen3 with tied embeddings."""
    from conftest import build_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    build_model(folder)
    (folder / "model.safetensors").unlink()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=355, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
                         eos_token_id=2, bos_token_id=None, **size)  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)


KINDS = {**{name: BASES[name] for name in ("tied", "untied", "shards", "gpt2")}, "qwen": qwen}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def imported(kind: str, out: Path, **more) -> Path:
    (out / "source").mkdir()
    KINDS[kind](out / "source")
    bring(out / "source", out, TEMPLATE_TOKENS, **more)
    return out / "model"


def chats(out: Path) -> Path:
    """Prepare chats with the template whose tokens are new."""
    file = out / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(60)))
    settings = DataSettings(
        task="chat_completion",
        train=Resolved(uri=str(file), digest=""),
        preprocessing={"chat_template": "simplified-llama31", "train_on_completions_only": True},
        max_length=64,
    )
    from steps.sources import data_sources

    found = data_sources.look("train", settings.data_source, lambda code, what: None)
    settings = settings.model_copy(update={"train": Resolved(uri=str(file), digest=data_sources.digest(found))})
    prepare_data(settings, out / "tokenizer", out / "data", out / "data.html")
    return out / "data"


def tuned(base: Path, data: Path, out: Path, lora: bool = True, **changes) -> Path:
    training = {**TRAINING, "max_steps": 4, "num_train_epochs": 1, **changes.pop("training", {})}
    settings = FinetuneSettings(
        pipeline="chat_completion", training=TrainingParams(**training), max_length=64,
        lora={"apply_lora": lora, "lora_r": 4}, **changes,
    )  # fmt: skip
    finetune(settings, base, data, out / "tuned", out / "checkpoints", out / "report.html")
    return out / "tuned"


def changed_rows(before: Path, after: Path) -> dict[str, list[int]]:
    """Rows of each embedding that differ in a single bit."""
    old, new = tensors_of(before), tensors_of(after)
    stored = {name: tensor for file in before.glob("*.safetensors") for name, tensor in stored_tensors(file).items()}
    return {
        name: sorted({int(row) for row in (old[name] != new[name]).nonzero()[:, 0]})
        for name, tensor in stored.items()
        if is_vocabulary(tensor, 358)
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_the_new_rows_alone_and_merges_as_peft_merges_it(kind, tmp_path):
    base = imported(kind, tmp_path)
    adapter = tuned(base, chats(tmp_path), tmp_path)
    merge_adapter(base, adapter, tmp_path / "merged")
    assert differing(tensors_of(tmp_path / "merged"), merged_by_peft(base, adapter, tmp_path / "peft")) == []
    rows = changed_rows(base, tmp_path / "merged")
    assert len(rows) == (2 if kind in ("untied", "shards") else 1)
    assert all(found == NEW for found in rows.values()), rows


def test_rows_that_were_there_before_their_tokens_are_trained_too(tmp_path):
    """Some models come with spare rows, as Qwen's do."""
    from conftest import build_model

    (tmp_path / "source").mkdir()
    build_model(tmp_path / "source", vocab_size=384)
    bring(tmp_path / "source", tmp_path, TEMPLATE_TOKENS)
    adapter = tuned(tmp_path / "model", chats(tmp_path), tmp_path)
    merge_adapter(tmp_path / "model", adapter, tmp_path / "merged")
    before, after = (tensors_of(tmp_path / name)["model.embed_tokens.weight"] for name in ("model", "merged"))
    assert sorted({int(row) for row in (before != after).nonzero()[:, 0]}) == NEW


def test_all_weights_train_all_rows(tmp_path):
    base = imported("tied", tmp_path)
    model = tuned(base, chats(tmp_path), tmp_path, lora=False)
    [rows] = changed_rows(base, model).values()
    assert set(NEW) < set(rows)


def test_new_rows_of_a_base_in_half_precision_are_trained_in_full(tmp_path):
    from safetensors.torch import load_file

    base = imported("shards", tmp_path)
    adapter = tuned(base, chats(tmp_path), tmp_path, training={"precision": "16"})
    weights = load_file(adapter / "adapter_model.safetensors")
    deltas = [tensor for name, tensor in weights.items() if "trainable_tokens" in name]
    assert [str(tensor.dtype) for tensor in deltas] == ["torch.float32"] * 2
    merge_adapter(base, adapter, tmp_path / "merged")
    assert all(found == NEW for found in changed_rows(base, tmp_path / "merged").values())


@pytest.mark.parametrize("trainer", ["dpo", "kto", "orpo", "cpo"])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_preferences_are_learned_with_new_tokens(trainer, kind, tmp_path):
    base = imported(kind, tmp_path)
    method = {"method": trainer, "precompute_ref_log_probs": kind == "tied" and trainer == "dpo"}
    rows = (rated_rows if trainer == "kto" else pair_rows)(60)
    data = prepared(base, tmp_path, rows, preprocessing={"chat_template": "simplified-llama31"})
    adapter = tuned(base, data, tmp_path, preference=method)
    merge_adapter(base, adapter, tmp_path / "merged")
    assert differing(tensors_of(tmp_path / "merged"), merged_by_peft(base, adapter, tmp_path / "peft")) == []
    assert all(found == NEW for found in changed_rows(base, tmp_path / "merged").values())


def test_a_training_that_goes_on_ends_with_the_same_rows(tmp_path):
    from peft import get_peft_model_state_dict

    from steps.finetune.run import Run
    from steps.finetune.trainers.sft import build

    base = imported("untied", tmp_path)
    data = chats(tmp_path)
    training = TrainingParams(**{**TRAINING, "max_steps": 4})
    settings = FinetuneSettings(
        pipeline="chat_completion", training=training, max_length=64, lora={"apply_lora": True},
        checkpoints={"save_steps": 2, "save_total_limit": 2},
    )  # fmt: skip
    trainers = [build(Run(settings, base, data, tmp_path / name)) for name in ("whole", "resumed")]
    trainers[0].args.save_strategy = trainers[1].args.save_strategy = "steps"
    trainers[0].args.save_steps = 2
    trainers[0].train()
    trainers[1].train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    whole, resumed = (get_peft_model_state_dict(trainer.model) for trainer in trainers)
    rows = [name for name in whole if "trainable_tokens" in name]
    assert len(rows) == 2
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_a_head_with_a_bias_is_refused_beside_an_adapter(tmp_path):
    from steps.errors import UserError

    (tmp_path / "source").mkdir()
    BASES["a head with a bias"](tmp_path / "source")
    bring(tmp_path / "source", tmp_path, TEMPLATE_TOKENS)
    with pytest.raises(UserError, match=r"TRAIN-E0214.*lm_head with a bias"):
        tuned(tmp_path / "model", chats(tmp_path), tmp_path)


@pytest.mark.parametrize("lora", [True, False])
def test_what_is_saved_stops_at_the_end_of_a_turn(lora, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    base = imported("tied", tmp_path)
    out = tuned(base, chats(tmp_path), tmp_path, lora=lora)
    folders = [out]
    if lora:
        merge_adapter(base, out, tmp_path / "merged")
        folders.append(tmp_path / "merged")
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.eos_token == "<|eot_id|>"
        assert tokenizer.pad_token == "<|endoftext|>"
        # The base's own end token still ends an answer.
        assert set(GenerationConfig.from_pretrained(folder).eos_token_id) == {2, 357}
        text = tokenizer.apply_chat_template(chat_rows(1)[0]["messages"], tokenize=False)
        assert tokenizer(text, add_special_tokens=False).input_ids[-1] == 357
