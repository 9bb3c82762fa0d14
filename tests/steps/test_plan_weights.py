"""What the headers of the weights tell: damaged files, and layers that an adapter names but the model does not have."""

import json
import struct
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from planning import planned

from steps.errors import StepError


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))


def refusal(local_base: Path, rows: Path, **changes) -> str:
    with pytest.raises(StepError) as caught:
        planned(local_base, rows, **changes)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Damaged weights


def header(described: object) -> bytes:
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text


def at(*offsets: object) -> dict:
    return {"a.weight": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}


ONE = at(0, 8)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda whole: b"", "an empty file"),
        (lambda whole: whole[:-100], "while the header declares"),
        (lambda whole: whole[:-1], "while the header declares"),
        (lambda whole: whole + b"more", "while the header declares"),
        (lambda whole: whole[:5], "5 bytes that are not a safetensors file"),
        (lambda whole: whole[:40], "40 bytes that are not a safetensors file"),
        (lambda whole: b"<html>not found</html>", "22 bytes that are not a safetensors file"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a safetensors file"),
        (lambda whole: header(b"no json, but long enough"), "a header that is not JSON"),
        (lambda whole: header([1, 2]), "a header that does not describe tensors"),
        (lambda whole: header({"a.weight": {"dtype": "F32"}}), "a header that does not describe tensors"),
        (lambda whole: header({"a.weight": 3}), "a header that does not describe tensors"),
        (lambda whole: header(at("0", "8")), "does not describe"),
        (lambda whole: header(ONE) + b"1234", "while the header declares"),
        (
            lambda whole: header({"a.weight": {**ONE["a.weight"], "data_offsets": [8, 16]}}) + b"12345678",
            "wrong offset",
        ),
        (lambda whole: header(at(0, 4)) + b"1234", "wrong offset"),
    ],
)
def test_a_damaged_weight_file_is_told_before_anything_runs(local_base, rows, content, found):
    file = local_base / "model.safetensors"
    file.write_bytes(content(file.read_bytes()))
    told = refusal(local_base, rows)
    assert told.startswith("MODEL-E0111 pytorch_model_path: model.safetensors: found ")
    assert found in told


def in_two(local_base: Path) -> dict[str, str]:
    """Divide the weights into two files with an index; return the index's map."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(local_base / "model.safetensors")
    (local_base / "model.safetensors").unlink()
    names, listed = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, local_base / file, metadata={"format": "pt"})
        listed |= dict.fromkeys(part, file)
    return listed


def write_index(local_base: Path, listed: dict[str, str]) -> None:
    (local_base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def test_an_index_that_does_not_fit_its_files_is_told(local_base, rows):
    listed = in_two(local_base)
    write_index(local_base, listed)
    assert planned(local_base, rows).model.shapes["model.layers.0.mlp.up_proj.weight"] == (128, 64)
    name = next(iter(listed))
    write_index(local_base, {**listed, "model.layers.7.mlp.up_proj.weight": listed[name]})
    told = refusal(local_base, rows)
    assert (
        "MODEL-E0115 pytorch_model_path: model.safetensors.index.json: found model.layers.7.mlp.up_proj.weight" in told
    )
    swapped = {key: next(file for file in listed.values() if file != own) for key, own in listed.items()}
    write_index(local_base, swapped)
    assert f"({len(swapped)} like this)" in refusal(local_base, rows)
    write_index(local_base, listed)
    (local_base / listed[name]).unlink()
    assert "MODEL-E0106 pytorch_model_path" in refusal(local_base, rows)


def test_every_damaged_shard_is_named(local_base, rows):
    listed = in_two(local_base)
    write_index(local_base, listed)
    for file in set(listed.values()):
        (local_base / file).write_bytes((local_base / file).read_bytes()[:-8])
    told = refusal(local_base, rows)
    assert all(f"MODEL-E0111 pytorch_model_path: {file}" in told for file in set(listed.values()))


def test_a_damaged_reference_is_told_too(local_base, rows, tiny_model, tmp_path):
    from preferences import pair_rows

    file = local_base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    pairs = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(60))
    with pytest.raises(StepError, match=r"MODEL-E0111 reference_model_path: model\.safetensors"):
        planned(tiny_model, pairs, "preference", reference_model_path=str(local_base))


# Layers of an adapter

LAYERS = "expected layers of the model: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
LORA = {"apply_lora": True}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lora_target_modules": "qproj"}, ("PLAN-E0386 lora_target_modules: found 'qproj'", "did you mean q_proj?")),
        ({"lora_target_modules": "query_key_value,dense"}, ("'query_key_value,dense'", LAYERS)),
        ({"lora_target_modules": "layers.9.self_attn.q_proj"}, ("PLAN-E0386", LAYERS)),
        ({"lora_target_modules": "self_attn"}, ("PLAN-E0386", LAYERS)),
        ({"lora_target_modules": ".*[qv]roj"}, ("PLAN-E0386 lora_target_modules: found '.*[qv]roj'", LAYERS)),
        ({"lora_target_modules": "q_proj|v_proj"}, ("PLAN-E0386", LAYERS)),  # the whole path has to match
        ({"peft_kwargs": {"exclude_modules": ["kproj"]}}, ("PLAN-E0387 peft_kwargs.exclude_modules", "k_proj?")),
        ({"peft_kwargs": {"rank_pattern": {"o_pro": 4}}}, ("PLAN-E0387 peft_kwargs.rank_pattern", "o_proj?")),
        ({"peft_kwargs": {"alpha_pattern": {"layers.[89].*": 4}}}, ("PLAN-E0387 peft_kwargs.alpha_pattern",)),
        (
            {"lora_target_modules": "q_proj", "peft_kwargs": {"exclude_modules": ["q_proj"]}},
            ("PLAN-E0388 peft_kwargs.exclude_modules", "because no layer is left for the adapter"),
        ),
        (
            {"lora_target_modules": "q_proj", "peft_kwargs": {"layers_to_transform": [5]}},
            ("PLAN-E0383 peft_kwargs.layers_to_transform",),
        ),
        (
            {"lora_target_modules": "q_proj", "peft_kwargs": {"layers_to_transform": [0], "layers_pattern": "h"}},
            ("PLAN-E0389 peft_kwargs.layers_pattern", "set it to layers"),
        ),
        ({"peft_kwargs": {"modules_to_save": ["classifyer"]}}, ("PARAM-E0262 peft_kwargs.modules_to_save",)),
        (
            {"peft_type": "ia3", "peft_kwargs": {"feedforward_modules": ["fc_out"]}},
            ("PLAN-E0387 peft_kwargs.feedforward_modules",),
        ),
        ({"peft_type": "ia3", "lora_target_modules": "qproj"}, ("PLAN-E0386", "q_proj?")),
        ({"peft_type": "loha", "lora_target_modules": "qproj"}, ("PLAN-E0386", "q_proj?")),
        ({"peft_type": "lokr", "lora_target_modules": "qproj"}, ("PLAN-E0386", "q_proj?")),
        ({"lora_target_modules": "q_proj(("}, ("PARAM-E0103 lora_target_modules", "a regular expression")),
    ],
)
def test_layers_that_the_model_does_not_have_are_refused(local_base, rows, given, words):
    told = refusal(local_base, rows, **LORA, **given)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("asked", "effective"),
    [
        (".*[qv]_proj", "q_proj,v_proj"),
        (r".*\.(up|down)_proj", "down_proj,up_proj"),
        (r"model\.layers\.1\..*k_proj", "model.layers.1.self_attn.k_proj"),
    ],
)
def test_a_regular_expression_becomes_the_names_that_it_matches(local_base, rows, asked, effective):
    decisions = planned(local_base, rows, **LORA, lora_target_modules=asked)
    assert decisions.parameters.lora_target_modules == effective
    assert f"lora_target_modules: {asked!r} is read as {effective!r}" in decisions.warnings


def test_names_without_a_layer_beside_others_are_told(local_base, rows):
    decisions = planned(local_base, rows, **LORA, lora_target_modules="q_proj,fc_in,wide")
    told = "lora_target_modules: the model has no layer fc_in, wide; the others get an adapter"
    assert told in decisions.warnings


def test_a_prompt_is_put_into_no_layer(local_base, rows):
    assert planned(local_base, rows, **LORA, peft_type="prompt_tuning").parameters.targets == []
