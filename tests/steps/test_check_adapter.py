"""check_adapter: the report, all problems together, and exit code 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_tokenizer
from small_adapters import change_settings, change_tensors, save_adapter

from steps.adapter_tools.checking import check_adapter
from steps.artifacts import new_artifact, read_manifest
from steps.errors import UserError


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    build_model(folder, tie_word_embeddings=False)
    return folder


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    return save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])


def checked(base: Path, adapter: Path) -> dict:
    report = adapter.parent / "check.json"
    check_adapter(base, adapter, report)
    return json.loads(report.read_text())


def problems(base: Path, adapter: Path) -> dict[str, str]:
    """The problems by code; the report must tell the same."""
    report = adapter.parent / "check.json"
    with pytest.raises(UserError) as caught:
        check_adapter(base, adapter, report)
    found = json.loads(report.read_text())
    assert found["fits"] is False
    assert found["problems"] == [str(problem) for problem in caught.value.problems]
    return {problem.code: str(problem) for problem in caught.value.problems}


def as_artifact(folder: Path, place: Path, kind: str, **lineage: object) -> Path:
    with new_artifact(place, kind, lineage) as draft:
        for file in folder.iterdir():
            shutil.copyfile(file, draft / file.name)
    return place


def test_a_good_pair_is_described(base, adapter):
    found = checked(base, adapter)
    assert found["fits"] is True
    assert found["modules"] == {"q_proj": 2, "v_proj": 2}
    assert found["adapter"]["kind"] == "LORA, rank 4, alpha 8"
    assert found["same_base"] is None
    assert found["vllm"] == "as it is"
    assert found["notes"] == []


@pytest.mark.parametrize(("whole", "told"), [(0.0, "after create-vllm-compatible-adapter"), (0.1, "merge it")])
def test_it_says_what_vllm_needs(base, tmp_path, whole, told):
    adapter = save_adapter(base, tmp_path / "adapter", whole=whole, modules_to_save=["lm_head"])
    found = checked(base, adapter)
    assert found["vllm"].startswith(told)
    assert found["replaced"] == ["lm_head.weight"]


def test_the_digest_of_the_base_decides_where_it_is_known(base, adapter, tmp_path):
    first = as_artifact(base, tmp_path / "first", "model")
    tuned = as_artifact(adapter, tmp_path / "tuned", "adapter", inputs={"model": read_manifest(first).digest})
    assert checked(first, tuned)["same_base"] is True
    build_model(tmp_path / "like it", tie_word_embeddings=False, rms_norm_eps=1e-4)
    other = as_artifact(tmp_path / "like it", tmp_path / "other", "model")
    assert problems(other, tuned).keys() == {"MERGE-E0201"}


def test_a_base_of_another_shape_is_told_together_with_its_digest(base, adapter, tmp_path):
    first = as_artifact(base, tmp_path / "first", "model")
    tuned = as_artifact(adapter, tmp_path / "tuned", "adapter", inputs={"model": read_manifest(first).digest})
    build_model(tmp_path / "wide", hidden_size=128, num_hidden_layers=1)
    told = problems(as_artifact(tmp_path / "wide", tmp_path / "other", "model"), tuned)
    assert told.keys() == {"MERGE-E0201", "MERGE-E0203", "MERGE-E0205"}
    assert "model.layers.1" in told["MERGE-E0203"]


def test_settings_and_tensors_are_told_together(base, adapter):
    def cut(tensors: dict) -> dict:
        return {name: tensor[:, :60].contiguous() if ".lora_A" in name else tensor for name, tensor in tensors.items()}

    change_settings(change_tensors(adapter, cut), lora_bias=True)
    assert problems(base, adapter).keys() == {"MERGE-E0108", "MERGE-E0205"}


def test_tokens_beyond_the_embeddings_are_told(base, adapter):
    build_tokenizer(adapter)
    file = adapter / "tokenizer.json"
    content = json.loads(file.read_text())
    added = dict(content["added_tokens"][0], id=5000, content="<new>")
    file.write_text(json.dumps({**content, "added_tokens": [*content["added_tokens"], added]}))
    told = problems(base, adapter)
    assert told.keys() == {"ADAPTER-E0103"}
    assert "'<new>' with the id 5000" in told["ADAPTER-E0103"]


def test_another_name_of_the_base_is_worth_a_note(base, adapter):
    change_settings(adapter, base_model_name_or_path="meta-llama/Llama-3.2-1B")
    (note,) = checked(base, adapter)["notes"]
    assert "meta-llama/Llama-3.2-1B" in note


def test_an_adapter_that_was_never_trained_is_worth_a_note(base, adapter):
    change_tensors(adapter, lambda ts: {n: torch.zeros_like(t) if ".lora_B" in n else t for n, t in ts.items()})
    (note,) = checked(base, adapter)["notes"]
    assert "never trained" in note


def test_a_tuned_model_is_no_adapter(base, tmp_path):
    model = as_artifact(base, tmp_path / "model", "model")
    with pytest.raises(UserError, match="ADAPTER-E0205"):
        check_adapter(base, model)


def test_the_command_exits_with_2_and_tells_every_problem(base, adapter, tmp_path):
    build_model(tmp_path / "wide", hidden_size=128, num_hidden_layers=1)

    def run(base: Path) -> subprocess.CompletedProcess:
        words = ["check-adapter", "--base", str(base), "--adapter", str(adapter)]
        return subprocess.run([sys.executable, "-m", "steps", *words], capture_output=True, text=True)

    good, bad = run(base), run(tmp_path / "wide")
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[-1] == "fits"
    assert bad.returncode == 2
    assert "does not fit: 3 problems" in bad.stdout
    assert {"MERGE-E0203", "MERGE-E0205"} <= {line.split(" ")[0] for line in bad.stderr.splitlines()}
