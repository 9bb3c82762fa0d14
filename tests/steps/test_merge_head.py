"""A head that the base does not have is in the merged model, equal to PEFT's result bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
from classifiers import BUILDERS
from conftest import build_model

from steps.artifacts import new_artifact
from steps.errors import UserError
from steps.merge_adapter.step import merge_adapter

NAMES = ["bad", "good", "odd"]


def build_in_shards(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    build_model(folder, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")


BASES = {**BUILDERS, "shards in bfloat16": build_in_shards}


@pytest.fixture(params=BASES)
def base(request, tmp_path) -> Path:
    BASES[request.param](tmp_path / "base")
    return tmp_path / "base"


def classifier(base: Path, names: list[str] = NAMES):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        dtype="auto", ignore_mismatched_sizes=True, pad_token_id=0,
    )  # fmt: skip


def tuned(base: Path, folder: Path, new: list[str] | None = None, names: list[str] = NAMES, config: bool = True):
    """Save an adapter whose every weight and whole head were moved; give the model and PEFT's merge of it."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        classifier(base, names),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=new),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    if config:
        whole = model.get_base_model()
        whole.config.architectures = [type(whole).__name__]
        whole.config.save_pretrained(folder)
    return model.merge_and_unload().eval()


def logits(model):
    import torch

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=(ids > 0).long()).logits


def new_in(base: Path) -> list[str] | None:
    return ["bert.pooler"] if "BertForMaskedLM" in (base / "config.json").read_text() else None


def test_the_merged_classifier_is_peft_s_bit_for_bit_with_its_head_and_its_classes(base, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    expected = tuned(base, tmp_path / "adapter", new_in(base))
    manifest = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    merged, found = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "merged", dtype="auto", output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["mismatched_keys"]
    # What a language model has and a classifier does not is carried along; nothing else is too much.
    assert all(key.startswith(("lm_head", "cls.")) for key in found["unexpected_keys"]), found["unexpected_keys"]
    theirs = expected.state_dict()
    ours = merged.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name].to(ours[name].dtype))] == []
    assert torch.equal(logits(merged.eval()), logits(expected))
    assert merged.config.id2label == dict(enumerate(NAMES))
    assert merged.config.pad_token_id == 0
    assert merged.dtype == classifier(base).dtype
    assert manifest.facts["architecture"] == type(merged).__name__
    assert manifest.facts["new_tensors"]


def test_a_head_for_another_number_of_classes_gives_way(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    build_model(tmp_path / "plain")
    classifier(tmp_path / "plain").save_pretrained(tmp_path / "base")
    expected = tuned(tmp_path / "base", tmp_path / "adapter", names=["yes", "no"])
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    merged, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(merged.eval()), logits(expected))
    assert merged.config.id2label == {0: "yes", 1: "no"}


def test_the_index_names_the_head(tmp_path):
    build_in_shards(tmp_path / "base")
    tuned(tmp_path / "base", tmp_path / "adapter")
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    before, after = (
        json.loads((tmp_path / folder / "model.safetensors.index.json").read_text())["weight_map"]
        for folder in ("base", "merged")
    )
    assert after.items() - before.items() == {("score.weight", max(before.values()))}
    assert before.items() <= after.items()


def test_a_head_without_the_names_of_its_classes_is_refused(tmp_path):
    build_model(tmp_path / "base")
    tuned(tmp_path / "base", tmp_path / "adapter", config=False)
    with pytest.raises(UserError, match=r"MERGE-E0111.*no config\.json"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")


def test_layers_that_the_base_does_not_have_are_refused_with_a_head_too(tmp_path):
    build_model(tmp_path / "base")
    build_model(tmp_path / "deeper", num_hidden_layers=3)
    tuned(tmp_path / "deeper", tmp_path / "adapter")
    with pytest.raises(UserError, match=r"MERGE-E0203.*layers\.2"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")


def test_facts_count_the_head_too(tmp_path):
    build_model(tmp_path / "base")
    with new_artifact(tmp_path / "imported", "model") as draft:
        draft.facts = {"architecture": "LlamaForCausalLM", "parameters": 1, "left_out": []}
        for file in (tmp_path / "base").iterdir():
            shutil.copy(file, draft / file.name)
    expected = tuned(tmp_path / "base", tmp_path / "adapter")
    manifest = merge_adapter(tmp_path / "imported", tmp_path / "adapter", tmp_path / "merged")
    assert manifest.facts["parameters"] == sum(parameter.numel() for parameter in expected.parameters())
