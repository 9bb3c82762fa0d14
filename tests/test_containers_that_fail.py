"""A compiled task that fails in its container tells why: in the termination message, and at the end of its log."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from container_tasks import CLAIM, Started
from kfp_driver import Driver, Task
from pod_containers import Cluster, Container, Ended, as_root_made_it
from s3_server import S3Server

pytest_plugins = ["container_fixtures"]
pytestmark = pytest.mark.containers

MESSAGE_BYTES = 2048
LINES = 30
COLUMNS = 80


@dataclass(frozen=True)
class Failure:
    """A run that cannot succeed: the parameters that differ from the documented one, and the task that ends it."""

    code: int
    task: str
    given: dict[str, Any]
    told: str
    """A part of the sentence that says why."""
    cluster: dict[str, Any] = field(default_factory=dict)


WRONG_KEY = {"mlpipeline-minio-artifact": {"accesskey": "AKIAUNKNOWN", "secretkey": "wrong"}}
FAILURES = {
    "a parameter": Failure(2, "plan", {"learning_rate": 0.0}, "learning_rate"),
    "a hundred wrong rows": Failure(
        2, "prepare-data", {"train_file_path": "s3://models/wrong/rows.jsonl"}, "rows.jsonl:1"
    ),
    "a wrong key": Failure(2, "plan", {}, "credentials with read access", {"secrets": WRONG_KEY}),
    "a volume of root's": Failure(2, "plan", {}, "/checkpoints/checkpoints", {"claims": {CLAIM: "root's"}}),
    "a pickle": Failure(3, "plan", {"pytorch_model_path": "s3://models/pickled"}, "safetensors"),
    "a value like a secret": Failure(
        3, "plan", {"experiment_name": "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"}, "experiment_name"
    ),
    "no GPU": Failure(5, "finetune", {"number_of_gpu_to_use_finetuning": 1}, "GPU"),
    "a full disk": Failure(
        5, "import-model", {"pytorch_model_path": "s3://models/copied"}, "space", {"artifacts_mib": 1}
    ),
    "a full volume": Failure(5, "finetune", {}, "space", {"claims": {CLAIM: 4}}),
    "numbers that explode": Failure(
        6, "finetune", {"learning_rate": 1e30, "warmup_steps": 0, "logging_steps": 1}, "learning_rate"
    ),
    "no store": Failure(4, "plan", {}, "s3://models/dates"),  # the last one, as it tries for minutes
}


@pytest.fixture(scope="module")
def wrong_sources(s3_store: S3Server) -> None:
    """Rows and a model that no run takes, beside the example."""
    store = s3_store.files()
    wrong = "".join(json.dumps({"messages": [{"role": "bot", "content": f"{n}"}]}) + "\n" for n in range(100))
    store.pipe_file("models/wrong/rows.jsonl", wrong.encode())
    for file in store.find("models/dates/base"):
        name = file.rpartition("/")[2]
        store.copy(file, f"models/copied/{name}")
        if not name.endswith(".safetensors"):
            store.copy(file, f"models/pickled/{name}")
    store.pipe_file("models/pickled/pytorch_model.bin", b"\x80\x04.")


@pytest.fixture(scope="module", params=FAILURES)
def failed(
    request, prepared: Started, wrong_sources: None, outage: Container, tmp_path_factory
) -> tuple[Failure, Task, Ended]:
    """A run as far as the task that fails."""
    failure = FAILURES[request.param]
    if failure.code == 4:
        return failure, outage.task, outage.wait(600)
    changes = dict(failure.cluster)
    if changes.get("claims") == {CLAIM: "root's"}:
        changes["claims"] = {CLAIM: as_root_made_it(tmp_path_factory.mktemp("root") / "volume")}
    given = {**prepared.given, **failure.given}
    task, ended = first_failure(prepared, given, replace(prepared.cluster, **changes))
    return failure, task, ended


def first_failure(prepared: Started, given: dict[str, Any], cluster: Cluster) -> tuple[Task, Ended]:
    """Run tasks until one fails; with the same settings as before, what it made is reused, as KFP's cache does."""
    for task in Driver(prepared.spec, given).tasks():
        before = prepared.done.get(task.name)
        if before and task.cached and before.executor_input == task.executor_input:
            task.made, task.artifacts = before.made, before.artifacts
            continue
        ended = cluster.run(task)
        if ended.code:
            return task, ended
    raise AssertionError("no task failed")


def test_the_task_ends_with_the_code_of_its_error(failed):
    failure, task, ended = failed
    assert ended.code == failure.code, ended.log[-3000:]
    assert task.name == (failure.task or task.name)


def test_the_termination_message_begins_with_a_sentence_and_ends_with_json(failed):
    failure, task, ended = failed
    assert len(ended.message.encode()) < MESSAGE_BYTES
    sentence, end, rest = ended.message.partition("\n")
    assert end
    assert sentence[0].isalpha()
    assert failure.told in sentence
    outcome = json.loads(rest)
    assert (outcome["code"], outcome["step"]) == (failure.code, task.name)
    assert outcome["fix"]
    assert "Fix: " in sentence


def test_the_log_ends_with_one_block_that_the_viewer_shows_whole(failed):
    failure, _, ended = failed
    last = ended.log.rstrip("\n").splitlines()[-LINES:]
    begins = [number for number, line in enumerate(last) if line.startswith("ERROR")]
    assert len(begins) == 1
    block = last[begins[0] :]
    assert max(map(len, block)) <= COLUMNS
    assert any(line.startswith("Fix: ") for line in block)
    assert not [line for line in last if line.startswith("{") or re.search(r'"(code|parameterValues)":', line)], "JSON"
    assert failure.told in "".join(block) or failure.told in " ".join(block)
    assert "Traceback" not in "\n".join(last)


def test_the_log_does_not_begin_with_the_whole_input(failed):
    _, task, ended = failed
    assert len(ended.log.splitlines()) < 250
    assert "Got executor_input" not in ended.log
    assert task.executor_input["outputs"]["outputFile"] not in ended.log
