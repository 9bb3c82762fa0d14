"""Models with a task head on a quantised base: the head is not quantised and is trained as a whole."""

from pathlib import Path

import pytest
from classifiers import BUILDERS
from conftest import build_model
from training_inputs import settings_with

from steps.finetune.heads import load_with_head
from steps.params.lora import LoraParams
from steps.params.quantisation import QuantisationParams

AUTO = {
    "classes": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "answers": "AutoModelForQuestionAnswering",
}
KINDS = {"classes": "sequence_classification", "tags": "token_classification", "answers": "question_answering"}
BITS = {"4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "8": {"load_in_8bit": True}}


def loaded(folder: Path, task: str, bits: str, **lora):
    import transformers

    quantised = QuantisationParams(**BITS[bits] if bits else {})
    settings = settings_with(kind=KINDS[task], lora=LoraParams(apply_lora=True, **lora), quantisation=quantised)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    head = {} if task == "answers" else {"num_labels": 3}
    return load_with_head(getattr(transformers, AUTO[task]), folder, settings, tokenizer, **head)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("base", "task"), [(b, t) for b in ("llama", "bert") for t in AUTO] + [("bert backbone", "tags")]
)
def test_what_is_trained_is_in_float32_and_the_rest_in_few_bits(base, task, bits, tmp_path):
    import torch

    BUILDERS[base](tmp_path)
    model, plain = loaded(tmp_path, task, bits), loaded(tmp_path, task, "")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    stored = [parameter for parameter in model.parameters() if type(parameter).__name__ in ("Params4bit", "Int8Params")]
    assert len(stored) >= 12
    # The head begins with the very weights that it has above a whole base.
    drawn = dict(plain.named_parameters())
    heads = [name for name in trained if "lora_" not in name]
    assert heads
    for name in heads:
        assert torch.equal(model.get_parameter(name), drawn[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("base", "task"), [("llama", "classes"), ("bert", "tags"), ("llama", "answers")])
def test_it_learns_and_merges_into_the_whole_base(base, task, bits, tmp_path):
    import torch
    import transformers

    from steps.merge_adapter.step import merge_adapter

    BUILDERS[base](tmp_path / "base")
    model = loaded(tmp_path / "base", task, bits, lora_alpha=16)
    ids = torch.arange(2, 18).view(2, 8)
    labels = {
        "classes": {"labels": torch.tensor([0, 2])},
        "tags": {"labels": ids % 3},
        "answers": {"start_positions": torch.tensor([1, 4]), "end_positions": torch.tensor([2, 6])},
    }[task]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)
    model.train()
    losses = []
    for _ in range(40):
        loss = model(input_ids=ids, **labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    model.save_pretrained(tmp_path / "tuned", save_embedding_layers=False)
    inner = model.get_base_model()
    inner.config.architectures = [type(inner).__name__]
    inner.config.save_pretrained(tmp_path / "tuned")
    merge_adapter(tmp_path / "base", tmp_path / "tuned", tmp_path / "merged")
    merged = getattr(transformers, AUTO[task]).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert merged(input_ids=ids, **labels).loss < losses[0] / 2
    assert not hasattr(merged.config, "quantization_config")


@pytest.mark.parametrize("width", [64, 72])  # bitsandbytes packs rows in blocks of 32
@pytest.mark.parametrize("task", ["text", "classes"])
def test_an_evaluation_leaves_the_stored_weights_as_they_are(task, width, tmp_path, monkeypatch):
    import bitsandbytes.nn.modules
    import torch

    from steps.finetune.loading import load_model

    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)  # whatever this CPU has
    build_model(tmp_path, intermediate_size=width)
    if task == "text":
        quantised = QuantisationParams(**BITS["4"])
        model = load_model(tmp_path, settings_with(lora=LoraParams(apply_lora=True), quantisation=quantised))
    else:
        model = loaded(tmp_path, task, "4")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    scales = {
        name: one.quant_state.absmax.dtype for name, one in model.named_parameters() if hasattr(one, "quant_state")
    }
    with torch.no_grad():
        model.eval()(input_ids=torch.tensor([[1, 2, 3]]))
    assert scales
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        if name in scales:
            assert parameter.quant_state.absmax.dtype == scales[name]
