"""The code of a registered model: finding, fetching and checking the weights, reading input."""

import hashlib
import os
import shutil
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from steps.register_model.pyfunc_model import read_rows, weights_folder

CONTENT = {"config.json": b"{}", "model.safetensors": b"weights" * 100}


@pytest.fixture
def reference(tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    files = {name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in CONTENT.items()}
    return {"weights_uri": str(folder), "digest": "f00d", "files": files}


@pytest.fixture
def remote(reference) -> dict:
    store = fsspec.filesystem("memory")
    for name, content in CONTENT.items():
        store.pipe(f"/bucket/weights/{name}", content)
    yield {**reference, "weights_uri": "memory://bucket/weights"}
    store.rm("/bucket", recursive=True)


def test_local_weights_are_used_where_they_lie(reference):
    assert weights_folder(reference) == Path(reference["weights_uri"])
    assert weights_folder({**reference, "weights_uri": f"file://{reference['weights_uri']}"}).is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(b"weights"), "7 bytes instead of 700"),
        (lambda file: file.write_bytes(b"Weights" * 100), "has another sha256"),
    ],
)
def test_weights_that_changed_are_named_and_not_loaded(reference, change, message):
    change(Path(reference["weights_uri"]) / "model.safetensors")
    with pytest.raises(OSError, match=rf"model\.safetensors .*{message}|model\.safetensors {message}"):
        weights_folder(reference)


def test_the_same_weights_elsewhere_can_be_named(reference, tmp_path):
    moved = Path(reference["weights_uri"]).rename(tmp_path / "moved")
    assert weights_folder(reference, str(moved)) == moved


def test_weights_that_were_deleted_are_told_with_what_to_do(reference, remote):
    shutil.rmtree(reference["weights_uri"])
    with pytest.raises(OSError, match=r"gone: .*does not exist any more.*model_config.*copy_weights_to_mlflow"):
        weights_folder(reference)
    with pytest.raises(OSError, match="gone: memory://bucket/nowhere"):
        weights_folder({**remote, "weights_uri": "memory://bucket/nowhere"})


def test_a_copy_is_used_if_it_is_whole(reference, tmp_path):
    copy = Path(shutil.copytree(reference["weights_uri"], tmp_path / "copy"))
    assert weights_folder(reference, None, tmp_path / "none") == Path(reference["weights_uri"])
    assert weights_folder(reference, None, copy) == copy
    (copy / "config.json").unlink()
    assert weights_folder(reference, None, copy) == Path(reference["weights_uri"])


def test_remote_weights_are_fetched_once(remote):
    folder = weights_folder(remote)
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    fsspec.filesystem("memory").pipe("/bucket/weights/config.json", b"other")
    assert weights_folder(remote) == folder
    assert (folder / "config.json").read_bytes() == b"{}"


def test_a_fetch_with_wrong_bytes_leaves_nothing_in_the_cache(remote):
    fsspec.filesystem("memory").pipe("/bucket/weights/model.safetensors", b"Weights" * 100)
    with pytest.raises(OSError, match="has another sha256"):
        weights_folder(remote)
    assert not [name for _, folders, files in os.walk(os.environ["XDG_CACHE_HOME"]) for name in files]


CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("hi", ["hi"]),
        (["a", "b"], ["a", "b"]),
        (pd.DataFrame({0: ["a", "b"]}), ["a", "b"]),
        (pd.DataFrame({"anything": ["a"]}), ["a"]),
        (pd.DataFrame({"prompt": ["a", "b"]}), ["a", "b"]),
        (pd.DataFrame({"messages": [CHAT, CHAT]}), [CHAT, CHAT]),
        (pd.DataFrame({"messages": [None, CHAT], "prompt": ["a", None]}), ["a", CHAT]),
    ],
)
def test_input_is_read_in_every_form_that_mlflow_hands_over(given, rows):
    assert read_rows(given) == rows


@pytest.mark.parametrize("given", [pd.DataFrame(index=[]), pd.DataFrame({"prompt": [None]})])
def test_input_without_a_question_is_refused_and_not_answered_with_nothing(given):
    with pytest.raises(ValueError, match="found"):
        read_rows(given)
