"""A local run reuses a result of an earlier one only if every byte is as it was written."""

import json
from pathlib import Path

import pytest

from pipelines.reuse import checked_reuse, outputs_in, store
from steps.artifacts import new_artifact, read_manifest
from steps.params.checked_json import sealed, unsealed

FILES = ("tuned/model.safetensors", "tuned/manifest.json", "models/model-1/config.json", "report.html")


def results(root: Path) -> dict:
    """What three tasks left: an artifact, a folder of artifacts, a page; and two values."""
    for name in ("tuned", "models/model-0", "models/model-1"):
        with new_artifact(root / name, "model") as draft:
            (draft / "config.json").write_text("{}")
            (draft / "model.safetensors").write_text(f"weights of {name}")
    (root / "report.html").write_text("<p>page</p>")
    places = {name: {"__kfp_artifact__": True, "schema_title": "system.Model", "name": name, "uri": str(root / name),
                     "metadata": {"rows": 5}} for name in ("tuned", "models", "report.html")}  # fmt: skip
    return {**places, "Output": True, "score": 0.25}


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    store(tmp_path / "entry.json", results(tmp_path / "run"))
    return tmp_path / "entry.json"


def test_what_is_unchanged_is_reused(entry, tmp_path):
    assert outputs_in(entry) == results(tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_result_makes_its_task_run_again(entry, tmp_path, name):
    file = tmp_path / "run" / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=str(tmp_path / "run" / name.split("/")[0])):
        outputs_in(entry)


@pytest.mark.parametrize("name", ["tuned", "tuned/manifest.json", "tuned/config.json", "models/model-0", "report.html"])
def test_a_result_of_which_a_part_is_gone_makes_its_task_run_again(entry, tmp_path, name):
    path = tmp_path / "run" / name
    path.rename(tmp_path / "elsewhere")
    if name == "models/model-0":
        path.mkdir()
    with pytest.raises((ValueError, OSError), match=r"was changed|is gone"):
        outputs_in(entry)


def test_every_flipped_bit_of_an_entry_is_found_or_says_the_same(entry, tmp_path):
    text, told = entry.read_bytes(), outputs_in(entry)
    for place in range(0, len(text), 3):
        changed = bytearray(text)
        changed[place] ^= 4
        try:
            assert unsealed(bytes(changed))["outputs"] == told
        except ValueError:
            continue


SHAPES = {
    "empty": "", "null": "null", "a list": "[]", "a number": "3", "an object": "{}", "nested": "[" * 20_000,
    "kfp's own form": json.dumps({"Output": True}), "not UTF-8": b"\xff\xfe", "a value alone": '{"value": 1}',
    "of other keys": sealed({"files": {}}), "a list with its checksum": sealed([1]),
    "a list of outputs": sealed({"outputs": [1], "files": {}}),
    "files of another type": sealed({"outputs": {"a": {"__kfp_artifact__": True, "uri": "/"}}, "files": [1]}),
    "an artifact of another type": sealed({"outputs": {"a": {"__kfp_artifact__": True, "uri": 5}}, "files": {}}),
}  # fmt: skip


@pytest.mark.parametrize("shape", [*SHAPES, "a folder"])
def test_an_entry_of_another_form_counts_as_none(tmp_path, shape):
    from kfp.local import cache

    entry = tmp_path / f"{'0' * 64}.json"
    if shape == "a folder":
        entry.mkdir()
    else:
        text = SHAPES[shape]
        entry.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = cache.LocalCache
    with checked_reuse():
        found = cache.LocalCache(str(tmp_path)).get("0" * 64)
    assert cache.LocalCache is before
    assert found is None or shape == "an artifact of another type"


def test_kfps_cache_reads_what_it_wrote(tmp_path):
    from kfp import dsl
    from kfp.local import cache

    results(tmp_path / "run")
    with checked_reuse():
        kept = cache.LocalCache(str(tmp_path / "cache"))
        kept.put("a" * 64, {"model": dsl.Model(name="tuned", uri=str(tmp_path / "run/tuned")), "score": 0.5})
        found = kept.get("a" * 64)
        assert (found["model"].uri, found["score"]) == (str(tmp_path / "run/tuned"), 0.5)
        (tmp_path / "run/tuned/config.json").write_text("[]")
        assert kept.get("a" * 64) is None


def test_a_plan_that_was_made_before_is_taken_whole_or_refused(tmp_path, monkeypatch):
    """Its folder is written as every artifact, so that a kill leaves none that is torn."""
    from steps.errors import Outage
    from steps.plan import step

    monkeypatch.setattr(step, "_told", lambda summary: str(summary))
    made = tmp_path / "made"
    with new_artifact(made / "plan", "plan") as draft:
        (draft / "plan.json").write_text('{"pipeline": "x"}')
    (made / "report.html").write_text("<p>plan</p>")
    (made / "outputs.json").write_text('{"a": "b"}')
    assert step._take(made, tmp_path / "plan", tmp_path / "report.html") == {"a": "b"}
    assert read_manifest(tmp_path / "plan", "plan").digest == read_manifest(made / "plan").digest
    assert (tmp_path / "report.html").read_text() == "<p>plan</p>"
    (made / "plan/plan.json").write_text('{"pipeline": "y"}')
    with pytest.raises(Outage, match=r"plan\.json"):
        step._take(made, tmp_path / "again", tmp_path / "report.html")
    assert not (tmp_path / "again").exists()


def test_the_result_of_a_run_that_was_refused_is_written(tmp_path, monkeypatch):
    from pipelines import runs

    refused = {"code": 2, "class": "UserError", "problems": ["PLAN-E0001 x"]}
    monkeypatch.setattr(runs, "_plan", lambda *_: (None, refused))
    given = {"pytorch_model_path": str(tmp_path), "train_file_path": str(tmp_path / "rows.jsonl")}
    told = runs.run("chat_completion", given, tmp_path / "root", cache=True, quiet=True)
    (file,) = (tmp_path / "root").glob("chat_completion-*/result.json")
    assert json.loads(file.read_text()) == told
    assert told["error"] == refused
    assert [one.name for one in file.parent.iterdir()] == ["result.json"]
