"""No step takes a byte of an artifact that is not the byte that was written, whatever is in its place by now."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import registering
import training_inputs

from steps import artifacts, sealed
from steps.artifacts import MANIFEST, Manifest, manifest_text, new_artifact, parse_manifest, read_manifest
from steps.errors import Outage
from steps.params.checked_json import CHECKSUM, checksum_of
from steps.params.settings import EvaluationSettings, GenerateSettings, ScoreSettings
from steps.running import load
from steps.sweep.trial import trial

NO_TENSORS = "\2\0\0\0\0\0\0\0{}"  # a whole safetensors file
WEIGHTS = {"config.json": "{}", "model.safetensors": NO_TENSORS, "tokenizer.json": "{}"}
FILES = {
    "tokenizer": {"tokenizer.json": "{}", "tokenizer_config.json": "{}", "chat_template.jinja": "{{ x }}"},
    "model": WEIGHTS,
    "tuned": {**WEIGHTS, "history.json": "{}", "completions.parquet": "rows"},
    "adapter": {"adapter_config.json": "{}", "adapter_model.safetensors": NO_TENSORS, "tokenizer.json": "{}"},
    "data": {"rows/train.parquet": "rows", "tokens/train.parquet": "tokens", "chat_template.jinja": "{{ x }}"},
    "plan": {"plan.json": "{}"},
    "evaluation": {"metrics.json": "{}", "inputs.json": "{}", "predictions.parquet": "rows", "plots/roc.png": "png"},
    "generations": {"generations_00000.parquet": "rows", "answers.yaml": "- a"},
}


def write(folder: Path, name: str) -> Path:
    """Make an artifact of small files: with a flipped bit none can be parsed, so a reader that tries it fails."""
    kind = {"tuned": "model"}.get(name, name)
    with new_artifact(folder, kind, {"inputs": {}}) as draft:
        for file, text in FILES[name].items():
            (draft / file).parent.mkdir(exist_ok=True)
            (draft / file).write_text(text)
        draft.facts = {"splits": {"train": {"sequences": 9}}}
    return folder


def flip(file: Path, place: int = -1) -> None:
    """Change one bit, and leave size and time of modification as they were."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


MEASURING = EvaluationSettings(task="chat_completion")
# Step → its settings, and its inputs: name of the argument → what it is.
READERS: dict[str, tuple[Any, dict[str, str]]] = {
    "prepare-data": (SimpleNamespace(task="chat_completion", recipe=SimpleNamespace(writer="math:pi"), train=None,
                                     validation=None, test=None),
                     {"tokenizer": "tokenizer"}),
    "finetune": (training_inputs.settings_with(), {"model": "model", "data": "data"}),
    "merge-adapter": (None, {"base": "model", "adapter": "adapter"}),
    "check-adapter": (None, {"base": "model", "adapter": "adapter"}),
    "create-vllm-compatible-adapter": (None, {"adapter": "adapter"}),
    "evaluate": (MEASURING, {"base": "model", "tuned": "tuned", "merged": "model", "data": "data"}),
    "measure": (MEASURING, {"base": "model", "tuned": "tuned", "data": "data"}),
    "report": (None, {"plan": "plan", "evaluation": "evaluation"}),
    "register-model": (registering.settings(), {"tuned": "tuned", "merged": "model", "evaluation": "evaluation"}),
    "package-model": (registering.settings(), {"tuned": "tuned", "merged": "model", "evaluation": "evaluation"}),
    "generate": (GenerateSettings(), {"model": "model", "data": "data", "adapter": "adapter"}),
    "score": (ScoreSettings(), {"generations": "generations"}),
    "choose-trial": (None, {"plan": "plan"}),
}  # fmt: skip
OUTPUTS = {
    "prepare-data": ["data", "report"],
    "finetune": ["tuned", "checkpoints", "report"],
    "merge-adapter": ["output"],
    "check-adapter": [],
    "create-vllm-compatible-adapter": ["output"],
    "evaluate": ["evaluation"],
    "measure": ["scratch"],
    "report": ["report"],
    "register-model": ["registration"],
    "package-model": ["mlflow_model"],
    "generate": ["generations"],
    "score": ["scores", "report"],
    "choose-trial": ["chosen_plan", "sweep", "report"],
}


@pytest.mark.parametrize("step", READERS)
def test_a_flipped_bit_in_any_file_of_any_input_ends_the_step_before_it_counts(step, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    settings, inputs = READERS[step]
    folders = {name: write(tmp_path / "in" / name, kind) for name, kind in inputs.items()}
    given = {"settings": settings} if settings else {}
    more = {"results": []} if step == "choose-trial" else {}
    outputs = {name: tmp_path / "out" / name for name in OUTPUTS[step]}
    for name, kind in inputs.items():
        for file in (*FILES[kind], MANIFEST):
            place = folders[name] / file
            flip(place)
            with pytest.raises(Outage, match="ARTIFACT-E0101") as raised:
                load(step)(**given, **more, **folders, **outputs)
            problem = str(raised.value.problems[0])
            assert file in problem, problem
            assert str(folders[name]) in problem
            assert "run again with caching off" in problem
            flip(place)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


TOOL_INPUTS = {
    "merge": ({}, ["base", "adapter"]),
    "check": ({}, ["base", "adapter"]),
    "vllm": ({"compare_with_base": True}, ["base", "adapter"]),
    "vllm alone": ({"action": "vllm", "compare_with_base": False}, ["adapter"]),
    "replace_tokens": ({"on_base": False, "replacements": {"a": "b"}}, ["adapter"]),
    "replace_tokens of the base": (
        {"action": "replace_tokens", "on_base": True, "replacements": {"a": "b"}}, ["base"]),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOL_INPUTS)
def test_a_damaged_input_of_an_adapter_tool_or_one_without_its_manifest_is_not_used(tool, tmp_path):
    given, read = TOOL_INPUTS[tool]
    settings = SimpleNamespace(**{"action": tool, "trained_whole": [], **given})
    folders = {name: write(tmp_path / name, kind) for name, kind in {"base": "model", "adapter": "adapter"}.items()}
    for name in read:
        for file in (*FILES["model" if name == "base" else "adapter"], MANIFEST):
            place = folders[name] / file
            content = place.read_bytes()
            for damage in (flip, Path.unlink):
                damage(place)
                with pytest.raises(Outage) as raised:
                    load("adapter-tool")(settings, **folders, result=tmp_path / "result")
                assert file in str(raised.value)
                assert not (tmp_path / "result").exists()
                place.write_bytes(content)


def test_every_flipped_bit_of_a_manifest_is_found_or_says_the_same(tmp_path):
    written = read_manifest(write(tmp_path / "x", "evaluation"))
    text = (tmp_path / "x" / MANIFEST).read_bytes()
    same = 0
    for place in range(len(text)):
        for bit in (0, 3, 5):
            changed = bytearray(text)
            changed[place] ^= 1 << bit
            try:
                assert parse_manifest(bytes(changed), tmp_path) == written
                same += 1
            except Outage:
                continue
    assert same < len(text) / 10  # blanks that became line ends


def test_a_file_is_hashed_once_in_a_process_and_again_after_any_change(tmp_path, monkeypatch):
    write(tmp_path / "x", "model")
    opened: list[str] = []

    def counting(file, *how):
        opened.append(Path(file).name)
        return open(file, *how)

    monkeypatch.setattr(artifacts, "open", counting, raising=False)
    time.sleep(artifacts.CLOCK_TICK / 1e9 + 0.03)
    for _ in range(3):
        read_manifest(tmp_path / "x")
    assert sorted(opened) == sorted(WEIGHTS)
    flip(tmp_path / "x/model.safetensors")
    with pytest.raises(Outage, match=r"model\.safetensors with other content .*expected sha256 [0-9a-f]{12}, as in"):
        read_manifest(tmp_path / "x")
    assert sorted(opened) == sorted([*WEIGHTS, "model.safetensors"])


def test_facts_with_other_keys_than_texts_are_read_as_they_were_written(tmp_path):
    with new_artifact(tmp_path / "x", "data") as draft:
        draft.facts = {"counts": dict.fromkeys(range(12), 1), "loss": float("nan"), "pair": (1, 2)}
    facts = read_manifest(tmp_path / "x").facts
    assert list(facts["counts"]) == [str(number) for number in range(12)]
    assert facts["pair"] == [1, 2]


def told(**changes) -> str:
    """A manifest that has its own checksum, and so is what it is on purpose."""
    manifest = Manifest("data", {"a.txt": {"size": 1, "sha256": "0" * 64}})
    value = {**json.loads(manifest_text(manifest)), **changes}
    del value[CHECKSUM]
    value = {key: one for key, one in value.items() if one != "gone"}
    return json.dumps({**value, CHECKSUM: checksum_of(value)})


def listed(name: str, **changes) -> str:
    return told(files={name: {"size": 1, "sha256": "0" * 64, **changes}})


DAMAGED: dict[str, bytes | str] = {
    "cut": told()[:40],
    "empty": "",
    "zeros": b"\0" * 300,
    "first byte flipped": "z" + told()[1:],
    "a number": "7",
    "a text": '"manifest"',
    "a list": "[1]",
    "a list of lists": "[[{}]]",
    "null": "null",
    "true": "true",
    "NaN": "NaN",
    "an empty object": "{}",
    "not UTF-8": b"\xff\xfe" + told().encode(),
    "UTF-16": told().encode("utf-16"),
    "20,000 levels": "[" * 20_000 + "]" * 20_000,
    "20,000 levels of facts": told().replace('"facts": {}', '"facts": ' + '{"a":' * 20_000 + "1" + "}" * 20_000),
    "a number of 5,000 digits": told().replace('"size": 1', '"size": ' + "9" * 5_000),
    "a key twice": told().replace('"kind"', '"kind": "model", "kind"', 1),
    "a file twice": told().replace('"a.txt":', '"a.txt": {}, "a.txt":', 1),
    "without its checksum": json.dumps({key: value for key, value in json.loads(told()).items() if key != CHECKSUM}),
    "another checksum": told().replace(json.loads(told())[CHECKSUM], "0" * 64),
    "two objects": told() + told(),
    **{f"without {key}": told(**{key: "gone"}) for key in ("kind", "files", "digest")},
    **{f"{key} of another type": told(**{key: [7]}) for key in ("kind", "files", "lineage", "facts", "same_as")},
    "another digest": told(digest="0" * 64),
    "a key too many": told(more=1),
    "files as numbers": told(files={"a.txt": 3}),
    "no files but null": told(files=None),
    **{f"size {size}": listed("a.txt", size=size) for size in (-1, True, 1.0, 1e300, "1", None, [1])},
    **{f"sha256 {value}": listed("a.txt", sha256=value) for value in ("", "0" * 63, "Z" * 64, None, 5)},
    **{f"the name {name!r}": listed(name) for name in (
        "", ".", "..", "../a", "/etc/passwd", "a/../../b", "a//b", "./a", "a/", MANIFEST, "\ud800")},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_manifest_of_another_form_is_an_outage_for_an_artifact_and_damage_for_a_checkpoint(damage, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    text = DAMAGED[damage]
    (tmp_path / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = "a damaged manifest.json"
    if damage == "without its checksum":
        found = "a manifest.json without a checksum: it is damaged, or an earlier version wrote it"
    with pytest.raises(Outage, match=re.escape(f"found {found};")) as raised:
        read_manifest(tmp_path)
    assert raised.value.exit_code == 4
    assert not raised.value.transient
    assert len(raised.value.problems) == 1
    assert sealed.is_sealed(tmp_path)
    assert not sealed.is_described(tmp_path)
    assert sealed.damage_of(tmp_path) == found
    assert sealed.facts_of(tmp_path) == {}


def folder(place: Path) -> None:
    place.mkdir()


ODD = {
    "a folder": folder,
    "a pipe": os.mkfifo,
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a link to nothing": lambda place: place.symlink_to("nowhere"),
    "a link to a device": lambda place: place.symlink_to("/dev/zero"),
    "a huge file": lambda place: os.truncate(os.open(place, os.O_CREAT | os.O_WRONLY), 3 * 1024**3),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [MANIFEST, "model.safetensors"])
def test_what_is_no_file_in_the_place_of_one_is_told_and_never_waited_for(odd, name, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/model.safetensors").write_text(NO_TENSORS)
    sealed.seal_folder(tmp_path / "x", {})
    place = tmp_path / "x" / name
    place.unlink()
    ODD[odd](place)
    with pytest.raises(Outage, match=name):
        read_manifest(tmp_path / "x", "checkpoint")
    assert sealed.is_sealed(tmp_path / "x")
    assert name in sealed.damage_of(tmp_path / "x")
    sealed.delete(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_rest_of_a_killed_writing_is_no_file_of_the_next_one(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5/model.safetensors").write_text("weights")
    (tmp_path / f"checkpoint-5/.{MANIFEST}.tmp").write_text('{"kind": "checkp')
    sealed.seal_folder(tmp_path / "checkpoint-5", {})
    assert sealed.damage_of(tmp_path / "checkpoint-5") == ""
    assert list(read_manifest(tmp_path / "checkpoint-5").files) == ["model.safetensors"]


def test_a_damaged_result_of_a_trial_is_no_result(tmp_path, monkeypatch):
    """The trial is run again, as if it had not ended."""
    measured = tmp_path / "measured"
    with new_artifact(measured, "trial") as draft:
        (draft / "trial.json").write_text(json.dumps({"number": 3, "state": "finished", "score": 0.25}))
    given = (SimpleNamespace(), tmp_path, tmp_path, tmp_path / "tuned", measured, tmp_path / "r.html")
    assert json.loads(trial(*given))["score"] == 0.25
    flip(measured / "trial.json", -2)
    with pytest.raises(AttributeError):  # it goes on to its settings
        trial(*given)


RECORDS = {"cut": b'{"tuned": "/x', "deep": b"[" * 20_000, "a list": b"[1]", "null": b"null", "a number": b"7",
           "other keys": b'{"x": 1}', "other types": b'{"tuned": [1], "settings": 5}', "not UTF-8": b"\xff\xfe\x00",
           "a folder": b""}  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_records_beside_checkpoints_that_have_another_form_count_as_none(record, tmp_path):
    """Of the task, of the settings, of MLflow's run, of verl."""
    from steps.finetune.checkpoints import CheckpointFolder, resume_point
    from steps.finetune.checkpoints.folder import SETTINGS_FILE, TASK_FILE
    from steps.tracking import continued
    from steps.verl.checkpoints import LATEST, TRAINING, VerlCheckpoints

    mine, other = tmp_path / "mine", tmp_path / "other"
    for place in (mine / TASK_FILE, other / SETTINGS_FILE, mine / continued.FILE, mine / LATEST, mine / TRAINING):
        if record == "a folder":
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(RECORDS[record])
    sealed_at(other / "checkpoint-5")
    sealed_at(mine / "checkpoint-5")
    checkpoints = CheckpointFolder(mine, {"settings": {}, "inputs": {}}, tmp_path)
    assert not checkpoints.was_begun_by(tmp_path / "tuned")
    assert resume_point(checkpoints, "auto", tmp_path / "tuned") == mine / "checkpoint-5"
    assert all(isinstance(one, dict) for one in checkpoints.others())
    assert continued.remembered(mine, "http://server") is None
    assert not continued.is_open(mine)
    (mine / "global_step_1").mkdir()
    of_verl = VerlCheckpoints(mine, {"settings": 1}, processes=1)
    assert of_verl.latest() == (7 if record == "a number" else 0)
    if not record.startswith("other"):  # those are settings, of another training
        of_verl._refuse_another_training()


def sealed_at(checkpoint: Path) -> Path:
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 5}')
    sealed.seal_folder(checkpoint, {})
    return checkpoint


def test_a_link_to_a_checkpoint_is_deleted_and_not_the_checkpoint(tmp_path):
    checkpoint = sealed_at(tmp_path / "elsewhere/checkpoint-5")
    (tmp_path / "checkpoint-5").symlink_to(checkpoint)
    sealed.delete(tmp_path / "checkpoint-5")
    assert not os.path.lexists(tmp_path / "checkpoint-5")
    assert sealed.damage_of(checkpoint) == ""
