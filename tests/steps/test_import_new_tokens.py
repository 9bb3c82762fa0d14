"""A base that gets new tokens, against transformers' resize_token_embeddings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import build_model
from test_import_model import bring as bring_as_it_is

from steps.artifacts import Manifest, read_manifest
from steps.errors import UserError
from steps.import_model.new_tokens import new_rows
from steps.import_model.step import import_model
from steps.models.weights import stored_tensors
from steps.params.settings import ImportSettings, Resolved
from steps.sources import storage

NEW = ("<|call|>", "<|result|>")


def bring(source: Path, out: Path, tokens: tuple[str, ...] = NEW, **more) -> Manifest:
    digest = storage.digest_of("pytorch_model_path", str(source))
    resolved = Resolved(uri=str(source), digest=digest)
    import_model(
        ImportSettings(kind="pytorch", source=resolved, new_tokens=tokens, **more), out / "model", out / "tokenizer"
    )
    read_manifest(out / "tokenizer", "tokenizer")
    return read_manifest(out / "model", "model")


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    build_model(folder)
    (folder / "model.safetensors").unlink()
    config = GPT2Config(vocab_size=355, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)


def neox(folder: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    build_model(folder)
    (folder / "model.safetensors").unlink()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=355, **size)).save_pretrained(folder)


def phi(folder: Path) -> None:
    """Build a model whose head has a bias."""
    from transformers import PhiConfig, PhiForCausalLM

    build_model(folder)
    (folder / "model.safetensors").unlink()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    PhiForCausalLM(PhiConfig(vocab_size=355, **size)).save_pretrained(folder)


def saved_as(folder: Path, dtype: str, shards: str = "5GB", **changes) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    build_model(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=shards)


BASES = {
    "tied": build_model,
    "untied": lambda folder: build_model(folder, tie_word_embeddings=False),
    "bfloat16": lambda folder: saved_as(folder, "bfloat16", tie_word_embeddings=False),
    "float16": lambda folder: saved_as(folder, "float16"),
    "shards": lambda folder: saved_as(folder, "bfloat16", "60KB", tie_word_embeddings=False),
    "gpt2": gpt2,
    "neox": neox,
    "a head with a bias": phi,
}


@pytest.mark.parametrize("kind", BASES)
def test_the_model_is_the_one_that_transformers_makes_but_for_the_noise_in_new_rows(kind, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tmp_path / "source"
    source.mkdir()
    BASES[kind](source)
    facts = bring(source, tmp_path).facts
    theirs = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    theirs.resize_token_embeddings(357)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    expected, found = theirs.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    assert ours.config.to_diff_dict() == theirs.config.to_diff_dict()
    assert facts["parameters"] == sum(parameter.numel() for parameter in ours.parameters())
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.shape == expected[name].shape
        old = tensor[:355] if tensor.shape[:1] == (357,) else tensor
        assert torch.equal(old, expected[name][: len(old)]), name
        # Both lie within some deviations of 3e-5 times the old rows'; rounded, they may be neighbours.
        step = torch.finfo(tensor.dtype).eps * expected[name].abs().max().float()
        assert (tensor.float() - expected[name].float()).abs().max() <= 1e-5 + step, name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert facts["new_tokens"] == {token: tokenizer.convert_tokens_to_ids(token) for token in NEW}
    assert facts["new_tokens"] == dict(zip(NEW, (355, 356), strict=True))
    assert facts["vocabulary"] == {"tokens": [355, 357], "rows": [355, 357]}
    assert facts["vocab_size"] == 357


def test_the_index_of_shards_tells_the_new_size(tmp_path):
    (tmp_path / "source").mkdir()
    BASES["shards"](tmp_path / "source")
    bring(tmp_path / "source", tmp_path)
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    tensors = [tensor for name in files for tensor in stored_tensors(tmp_path / "model" / name).values()]
    assert len(files) > 1
    assert index["metadata"]["total_size"] == sum(tensor.end - tensor.start for tensor in tensors)


def test_data_and_model_get_the_same_tokenizer(tiny_model, tmp_path):
    bring(tiny_model, tmp_path)
    names = [name for name in read_manifest(tmp_path / "tokenizer").files if name != "config.json"]
    assert "tokenizer.json" in names
    for name in [*names, "config.json"]:
        assert (tmp_path / "tokenizer" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_rows_that_are_there_already_are_used(tmp_path):
    (tmp_path / "source").mkdir()
    build_model(tmp_path / "source", vocab_size=384)
    facts = bring(tmp_path / "source", tmp_path).facts
    same = [name for name in ("model.safetensors", "config.json")
            if (tmp_path / "source" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()]  # fmt: skip
    assert same == ["model.safetensors", "config.json"]
    assert facts["new_tokens"] == {"<|call|>": 355, "<|result|>": 356}
    assert facts["vocabulary"] == {"tokens": [355, 357], "rows": [384, 384]}


def test_the_same_import_gives_the_same_bytes(tiny_model, tmp_path):
    digests = [bring(tiny_model, tmp_path / name).digest for name in ("one", "other")]
    assert digests[0] == digests[1]


def test_nothing_is_written_anew_without_new_tokens(tiny_model, tmp_path):
    one, other = bring_as_it_is(tiny_model, tmp_path / "one"), bring(tiny_model, tmp_path / "other", ())
    assert one.digest == other.digest
    assert one.facts == other.facts


def test_new_rows_have_the_spread_that_transformers_gives_them(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    old = torch.randn(300, 6) @ torch.randn(6, 6) + torch.arange(6.0)
    save_file({"lm_head.weight": old}, tmp_path / "x.safetensors")
    [stored] = stored_tensors(tmp_path / "x.safetensors").values()
    rows = np.frombuffer(new_rows(stored, 20_000), "<f4").reshape(-1, 6).astype(np.float64)
    noise = rows - old.double().mean(0).numpy()
    wanted = 1e-9 * np.cov(old.double().numpy().T, bias=True)
    assert np.abs(rows.mean(0) - old.double().mean(0).numpy()).max() < 1e-5
    assert np.allclose(np.cov(noise.T), wanted, rtol=0.1, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_are_rounded_as_torch_rounds_them(dtype):
    import torch

    from steps.import_model.new_tokens import _as_stored

    name = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    # Halfway between two neighbours of bfloat16: the even one is taken.
    values[:4] = torch.tensor([1.00390625, 1.01171875, -1.00390625, 65280.0])
    expected = values.to(getattr(torch, dtype)).view(torch.uint8).numpy().tobytes()
    assert _as_stored(values.numpy().astype(np.float64), name) == expected


def test_a_model_without_a_known_embedding_is_refused(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    weights = load_file(source / "model.safetensors")
    weights["model.strange.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, source / "model.safetensors")
    with pytest.raises(UserError, match=r"MODEL-E0131.*355 rows"):
        bring(source, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_padding_token_is_named_without_touching_weights(tmp_path):
    from transformers import AutoTokenizer

    source = tmp_path / "source"
    source.mkdir()
    build_model(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(source).pad_token is None
    bring(source, tmp_path, (), padding_token="<|endoftext|>")
    for folder in ("model", "tokenizer"):
        assert AutoTokenizer.from_pretrained(tmp_path / folder).pad_token == "<|endoftext|>"
    assert (tmp_path / "model/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
