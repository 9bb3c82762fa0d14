"""What lists show of an artifact: few short facts, of every kind of folder that the pipelines make."""

import json
from pathlib import Path

import pytest
from report_artifacts import write_data, write_evaluation, write_plan

from steps.artifacts import new_artifact
from steps.listed import LONGEST, listed


def write_model(folder: Path, kind: str = "model", source: str = "", same_as: str = "", **facts: object) -> Path:
    with new_artifact(folder, kind, {"source": source} if source else {}) as draft:
        if not same_as:
            (draft / "weights").write_bytes(b"x" * 2_500_000)
        draft.same_as, draft.facts = same_as, dict(facts)
    return folder


def base(place: Path) -> Path:
    return write_model(place, source="s3://models/base", architecture="Llama", parameters=7)


def tuned(place: Path) -> Path:
    return write_model(place, "adapter", parameters={"total": 70, "trainable": 3}, steps=12)


def registration(place: Path) -> Path:
    told = {"name": "dates", "version": "3", "alias": "", "model_uri": "models:/dates/3", "run_id": "a" * 32,
            "tracking_uri": "http://mlflow", "weights_uri": "s3://x"}  # fmt: skip
    with new_artifact(place, "registration") as draft:
        (draft / "registration.json").write_text(json.dumps(told))
    return place


def check(place: Path) -> Path:
    return write_model(place, "check", fits=False, vllm=[])


KINDS = {
    "base": (base, {"base_model": "s3://models/base", "parameters": 7, "size_mb": 2.5}),
    "tuned": (tuned, {"base_model": "s3://models/base", "kind": "adapter", "parameters": 70, "trained": 3,
                      "steps": 12, "size_mb": 2.5}),
    "merged": (lambda place: write_model(place, same_as="tuned", merged_modules=0),
               {"same_as": "tuned"}),
    "check": (check, {"base_model": "s3://models/base", "kind": "check", "fits": False, "size_mb": 2.5}),
    "no adapter": (lambda place: write_model(place, "adapter", given=False, same_as="nothing"),
                   {"kind": "adapter", "same_as": "nothing", "base_model": "s3://models/base"}),
    "tokenizer": (lambda place: write_model(place, "tokenizer"), {}),
    "data": (write_data, {"rows": 41377, "validation_rows": 400, "test_rows": 400}),
    "evaluation": (write_evaluation, {"passed": True, "metric": "exact_match", "score": 0.714286,
                                      "score_base": 0.285714, "rows": 7}),
    "registration": (registration, {"name": "dates", "version": "3", "model_uri": "models:/dates/3"}),
    "trial": (lambda place: write_model(place, "trial", state="failed", score=None), {"state": "failed"}),
    "sweep": (lambda place: write_model(place, "sweep", best=2, trials=4), {"best": 2, "trials": 4}),
    "plan": (write_plan, {"base_model": "meta-llama/Llama-3.2-1B", "warnings": 1}),
}  # fmt: skip
MADE_FROM_A_BASE = ("tuned", "check", "no adapter")


@pytest.mark.parametrize("name", KINDS)
def test_a_list_shows_what_the_folder_is(name, tmp_path):
    write, expected = KINDS[name]
    folder = write(tmp_path / "folder")
    facts = listed(folder, base(tmp_path / "base") if name in MADE_FROM_A_BASE else None)
    assert facts == expected
    # KFP's driver writes it into the pods of all tasks that read it
    assert len(json.dumps(facts)) < 200
    assert json.loads(json.dumps(facts)) == facts


def test_a_base_without_a_manifest_and_a_folder_without_one_have_nothing_to_show(tmp_path):
    (tmp_path / "plain").mkdir()
    assert listed(tmp_path / "plain") == {}
    assert "base_model" not in listed(tuned(tmp_path / "tuned"), tmp_path / "plain")


def test_a_long_address_keeps_its_end(tmp_path):
    source = "s3://bucket/" + "folder/" * 40 + "model"
    [name] = [listed(write_model(tmp_path / "m", source=source))["base_model"]]
    assert len(name) == LONGEST
    assert name.startswith("...")
    assert name.endswith("folder/model")
