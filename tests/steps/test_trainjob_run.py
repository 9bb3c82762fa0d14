"""A TrainJob is created, followed and ended, whatever the cluster does meanwhile."""

import itertools
import json
import logging
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml
from trainer_pods import POD, WORKFLOW, launcher_pod
from trainer_server import (
    JOBS,
    LOSE,
    RESET,
    Request,
    TrainerServer,
    condition,
    end,
    failure,
    node,
    terminated,
    texts,
)
from waiting import LONG

from steps import running as running_step
from steps import stopping
from steps.errors import NumericError, Outage, OutOfResources, Preempted, Problem, SecurityRefusal, StepError, UserError
from steps.launch.meeting import lost
from steps.launch.trainjob import Times, run_on_nodes
from steps.messages import termination_message
from steps.params.distributed import Processes
from steps.params.nodes import NodeSettings

QUICK = Times(look_every=0.005, renew_every=0.01, patience=20, first_wait=0.002, grace=0.05, logs=2, hurry=2)
INSTALL = Path(__file__).parents[2] / "docs/install.yaml"
TRIALS = 50


@pytest.fixture
def cluster(monkeypatch):
    """A cluster in which this process is the pod of a task."""
    server = TrainerServer()
    server.add_pod(launcher_pod())
    monkeypatch.setenv("KFP_POD_NAME", POD)
    monkeypatch.setenv("KFP_NAMESPACE", "team")
    reach(server, monkeypatch.setattr)
    yield server
    server.close()


def reach(server, put):
    from kubernetes import config

    put(config, "load_incluster_config", lambda configuration: setattr(configuration, "host", server.url))


def run(tmp_path, told=lambda: None, times=QUICK, identity="a training", alive="", before_start=lambda: None):
    manifest = tmp_path / "trainjob.json"
    processes = Processes(nodes=2, per_node=1)
    run_on_nodes(
        ["torchrun", "-m", "x"], NodeSettings(), processes, identity, manifest, alive, told, before_start, times
    )
    return json.loads(manifest.read_text())


def refused(tmp_path, **changes) -> StepError:
    with pytest.raises(StepError) as caught:
        run(tmp_path, **changes)
    return caught.value


def running(server, job, restart=0, **logs):
    """Let both nodes of a job run."""
    name = job["metadata"]["name"]
    for rank in range(2):
        if f"{name}-node-0-{rank}-r{restart}" not in server.pods:
            server.add_pod(node(name, rank, name=f"{name}-node-0-{rank}-r{restart}"))


def after(looks, kind="Complete", reason="AllJobsCompleted"):
    """Return a behaviour: the nodes run at the second look, and the job ends at a later one."""

    def behave(job, look):
        if look == 2:
            running(behave.server, job)
        if look == looks:
            for pod in behave.server.pods.values():
                if pod["metadata"]["name"] != POD:
                    pod["status"]["phase"] = "Succeeded" if kind == "Complete" else "Failed"
            end(job, kind, reason)

    return behave


def ends(server, looks=4, kind="Complete"):
    server.behave = after(looks, kind)
    server.behave.server = server


def fails(server, *statuses, reason="FailedJobs", **extra):
    """Let the job fail with pods that have these statuses."""

    def behave(job, look):
        if look != 2:
            return
        for rank, status in enumerate(statuses):
            server.add_pod(node(job["metadata"]["name"], rank, "Failed", f"node-{rank}", **status))
            server.logs[f"node-{rank}"] = [f"2026-01-01T00:00:0{n}.000000000Z line {n} of {rank}" for n in range(3)]
            server.events.append({"involvedObject": {"name": f"node-{rank}"}, "type": "Warning", "reason": "BackOff",
                                  "message": f"event of {rank}"})  # fmt: skip
        end(job, "Failed", reason, "jobset failed")

    server.behave = behave


# The usual course


def test_a_job_is_created_followed_and_deleted(cluster, tmp_path):
    ends(cluster)
    manifest = run(tmp_path)
    (made,) = cluster.made
    assert made["spec"]["trainer"] == manifest["spec"]["trainer"]
    assert cluster.jobs == {}
    assert [one.query.get("dryRun") for one in cluster.asked("POST")] == ["All", None]


def test_the_requests_need_no_more_rights_than_the_documentation_grants(cluster, tmp_path):
    role = next(made for made in yaml.safe_load_all(INSTALL.read_text()) if made["kind"] == "Role")
    granted = {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    ends(cluster)
    run(tmp_path)
    fails(cluster, terminated(1))
    refused(tmp_path)
    ends(cluster)
    run(tmp_path)  # replaces the one that failed
    existing(cluster, tmp_path, {})
    cluster.pods[POD]["metadata"]["uid"] = "another"
    cluster.behave = lambda job, look: end(job) if look > 5 else None
    run(tmp_path)  # takes the one that goes on
    used = cluster.verbs()
    assert used <= granted, used - granted
    assert {verb for what, verb in used if what == "trainjobs"} == {"get", "create", "delete", "patch"}


def test_the_lease_is_renewed_while_the_job_goes_on(cluster, tmp_path):
    from steps.launch.lease import Lease

    alive = tmp_path / "shared" / "lease"
    seen = []

    def behave(job, look):
        if alive.exists():
            seen.append(alive.read_text())
        if len(set(seen)) > 3:
            end(job)

    cluster.behave = behave
    run(tmp_path, alive=str(alive))
    last = alive.read_text()
    time.sleep(0.05)
    assert alive.read_text() == last
    assert not Lease(str(alive)).is_stale()


def test_a_lease_that_cannot_be_written_ends_no_training(cluster, tmp_path):
    ends(cluster)
    (tmp_path / "file").write_text("")
    run(tmp_path, alive=str(tmp_path / "file" / "lease"))
    assert cluster.jobs == {}


def test_a_lease_is_stale_by_the_clock_of_its_reader_alone(tmp_path):
    from steps.launch.lease import Lease

    now = [0.0]
    writer, reader = Lease(str(tmp_path / "l")), Lease(str(tmp_path / "l"), clock=lambda: now[0])
    writer.renew()
    assert not reader.is_stale()
    os.utime(tmp_path / "l", (0, 0))  # the writer's clock is decades behind
    now[0] = 599
    assert not reader.is_stale()
    now[0] = 600
    assert reader.is_stale()
    writer.renew()
    assert not reader.is_stale()
    (tmp_path / "l").unlink()
    now[0] = 1199
    assert not reader.is_stale()
    now[0] = 1200
    assert reader.is_stale()


def test_a_lease_is_an_object_as_well():
    import fsspec

    from steps.launch.lease import Lease

    now = [0.0]
    place = "memory://bucket/job/lease"
    reader = Lease(place, clock=lambda: now[0])
    now[0] = 700
    assert reader.is_stale()
    Lease(place).renew()
    assert not reader.is_stale()
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


# Failures


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, UserError), (3, SecurityRefusal), (4, Outage), (5, OutOfResources), (6, NumericError), (143, Preempted),
        (137, OutOfResources), (70, StepError), (1, Outage),
    ],
)  # fmt: skip
def test_the_exit_code_of_a_container_decides(cluster, tmp_path, code, kind):
    fails(cluster, terminated(1, at="2026-01-01T00:00:09Z"), terminated(code, at="2026-01-01T00:00:01Z"))
    error = refused(tmp_path)
    assert type(error) is kind
    assert error.exit_code == kind.exit_code
    notes = "\n".join(error.__notes__)
    for rank in range(2):
        assert f"line 2 of {rank}" in notes
        assert f"event of {rank}" in notes
    (name,) = cluster.jobs
    assert f"TrainJob {name}" in notes
    assert "is kept" in notes


@pytest.mark.parametrize("first", [0, 1])
def test_a_cause_is_told_before_what_follows_from_it(cluster, tmp_path, first):
    causes = [terminated(6, at="2026-01-01T00:00:05Z"), terminated(143, at="2026-01-01T00:00:04Z")]
    fails(cluster, *(causes if first == 0 else causes[::-1]))
    assert type(refused(tmp_path)) is NumericError


def test_memory_is_told_by_kubernetes_too(cluster, tmp_path):
    fails(cluster, terminated(1), terminated(137, "OOMKilled"))
    error = refused(tmp_path)
    assert type(error) is OutOfResources
    assert "OOMKilled" in str(error)


@pytest.mark.parametrize(
    ("pod", "code"),
    [(terminated(137, "OOMKilled"), "NODES-E0501"), (terminated(1), "NODES-E0406"), (terminated(143), "NODES-E0406")],
)
def test_a_node_that_has_gone_is_told_as_what_kubernetes_says_of_it(cluster, tmp_path, pod, code):
    fails(cluster, terminated(4), pod)
    error = refused(tmp_path, told=lambda: lost(1, "node-1"))
    assert error.problems[0].code == code
    assert "node 1" in str(error)


def test_what_the_training_told_is_raised_with_what_the_pods_show(cluster, tmp_path):
    told = NumericError(Problem("TRAIN-E0601", "step 3", "NaN", "a finite loss", "lower learning_rate"))
    fails(cluster, terminated(1), terminated(137))
    error = refused(tmp_path, told=lambda: told)
    assert error is told
    assert any("line 2 of 1" in note for note in error.__notes__)


def test_a_termination_message_of_ours_is_read(cluster, tmp_path):
    problem = Problem(
        "DATA-E0412", "train.jsonl:3", "'bot'", "a role", "rename the role", why="the template has no bot"
    )
    message = termination_message(UserError([problem, problem]).as_json("finetune"))
    fails(cluster, terminated(1, message=message), terminated(143))
    error = refused(tmp_path)
    assert type(error) is UserError
    assert error.problems == [problem]


@pytest.mark.parametrize(
    "status",
    [
        {"reason": "Evicted", "message": "the node was low on memory"},
        {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
        {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}],
         **terminated(137)},
    ],
)  # fmt: skip
def test_a_preempted_node_lets_the_task_begin_again(cluster, tmp_path, status, monkeypatch):
    fails(cluster, terminated(1), status)
    error = refused(tmp_path)
    assert type(error) is Preempted
    assert error.transient
    assert error.retryable


def test_a_task_tries_again_after_a_preemption_that_the_training_told(cluster, tmp_path):
    told = Preempted(Problem("TRAIN-E1431", "step 3 of 9", "a request to stop", "9 steps", "run again"))
    fails(cluster, terminated(143))
    error = refused(tmp_path, told=lambda: told)
    assert error is told
    assert error.transient  # `steps/outages.py` begins the step again
    assert not Preempted(told.problems).transient


def test_a_deadline_that_passed_leaves_no_pods(cluster, tmp_path):
    cluster.behave = lambda job, look: end(job, "Failed", "DeadlineExceeded", "too long")
    error = refused(tmp_path)
    assert type(error) is OutOfResources
    assert "deadline_hours_finetune" in str(error)


def test_a_runtime_that_the_trainer_does_not_support_is_named(cluster, tmp_path):
    cluster.behave = lambda job, look: end(job, "Failed", "TrainingRuntimeNotSupported", "no such runtime")
    assert "docs/training-runtime.yaml" in str(refused(tmp_path))


def test_a_job_that_tries_a_mistake_again_and_again_is_ended(cluster, tmp_path):
    told = UserError(Problem("DATA-E0412", "a", "b", "c", "d"))
    cluster.behave = lambda job, look: running(cluster, job, restart=look // 5)
    error = refused(tmp_path, told=lambda: told)
    assert error is told
    assert cluster.jobs == {}


@pytest.mark.parametrize("kind", [Preempted, Outage, StepError])  # a StepError: a connection that broke
def test_an_error_that_may_pass_is_left_to_the_runtime(cluster, tmp_path, kind):
    told = kind(Problem("TRAIN-E1431", "a", "b", "c", "d"))
    ends(cluster, looks=20)
    run(tmp_path, told=lambda: told, times=Times(**{**vars(QUICK), "grace": 0}))


def test_a_folder_that_does_not_answer_tells_nothing(cluster, tmp_path):
    def told():
        raise OSError("stale file handle")

    ends(cluster)
    run(tmp_path, told=told)


def test_a_job_that_somebody_deletes_is_a_preemption(cluster, tmp_path):
    cluster.behave = lambda job, look: cluster.jobs.clear() if look == 3 else None
    error = refused(tmp_path)
    assert type(error) is Preempted
    assert not error.transient


# Queues


def test_a_queue_is_waited_for_and_told_once(cluster, tmp_path, caplog):
    def behave(job, look):
        if look == 1:
            job["spec"]["suspend"] = True
            condition(job, "Suspended", "True", "Suspended", "no quota in queue team")
        if look == 40:
            condition(job, "Suspended", "False", "Resumed")
        if look == 60:
            pending = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have nvidia.com/gpu"}
            cluster.add_pod(node(job["metadata"]["name"], 0, "Pending", conditions=[pending]))
        if look == 80:
            running(cluster, job)
        if look == 90:
            condition(job, "Suspended", "True", "Suspended")
            cluster.pods = {POD: cluster.pods[POD]}
        if look == 100:
            condition(job, "Suspended", "False", "Resumed")
            running(cluster, job, restart=1)
        if look == 110:
            end(job)

    cluster.behave = behave
    with caplog.at_level(logging.INFO, "finetune"):
        run(tmp_path)
    told = [text for text in caplog.messages if re.match(r"TrainJob \S+: ", text)]
    states = [text.split(": ", 1)[1] for text in told]
    assert len(states) == len(set(itertools.pairwise(states))) + 1
    assert "no quota in queue team" in states[0]
    assert states[1] == "queued, as it has no pods yet"
    assert "0/3 nodes have nvidia.com/gpu" in states[2]
    assert states[3].startswith("2 of 2 nodes run")


def test_an_image_that_cannot_be_pulled_is_told(cluster, tmp_path, caplog):
    def behave(job, look):
        if look == 2:
            state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
            cluster.add_pod(
                node(job["metadata"]["name"], 1, "Pending", containerStatuses=[{"name": "node", "state": state}])
            )
        if look == 6:
            end(job)

    cluster.behave = behave
    with caplog.at_level(logging.INFO, "finetune"):
        run(tmp_path)
    assert any("node 1 waits: ImagePullBackOff: no such image" in text for text in caplog.messages)


# A job of that name is there already


def existing(cluster, tmp_path, status):
    """Let an earlier try have left its job with a status."""
    cluster.behave = lambda job, look: end(job)
    cluster.fault = lambda request: texts(failure(500, "", "kept")) if request.method == "DELETE" else None
    run(tmp_path, times=Times(**{**vars(QUICK), "patience": 0}))
    cluster.fault = lambda request: None
    (job,) = cluster.jobs.values()
    job["status"] = status
    cluster.made.clear()
    return job


def test_a_job_that_goes_on_is_followed(cluster, tmp_path, caplog):
    job = existing(cluster, tmp_path, {})
    cluster.add_pod({**launcher_pod(), "metadata": {**launcher_pod()["metadata"], "uid": "second-try"}})
    owners = []

    def behave(found, look):
        owners.append([one["uid"] for one in found["metadata"]["ownerReferences"]])
        if look >= 5:
            end(found)

    cluster.behave = behave
    started = []
    run(tmp_path, before_start=lambda: started.append(1))
    assert cluster.made == []
    assert not started
    assert set(owners[-1]) == {"launcher-uid", WORKFLOW["uid"], "second-try"}
    assert cluster.jobs == {}, job


def test_a_complete_job_is_the_result(cluster, tmp_path):
    existing(cluster, tmp_path, {})
    end(next(iter(cluster.jobs.values())))
    run(tmp_path)
    assert cluster.made == []
    assert cluster.jobs == {}


def test_a_job_that_failed_is_replaced_and_counted(cluster, tmp_path):
    cluster.leaving = 5
    for attempt in (2, 3):
        if attempt == 2:
            existing(cluster, tmp_path, {})
            end(next(iter(cluster.jobs.values())), "Failed")
        fails(cluster, terminated(1))
        refused(tmp_path)
        assert cluster.made[-1]["metadata"]["labels"]["finetune-pipelines/attempt"] == str(attempt)
    assert cluster.most_active == 1
    started = []
    ends(cluster)
    run(tmp_path, before_start=lambda: started.append(1))
    assert started == [1]


def test_a_job_that_is_being_deleted_is_waited_for(cluster, tmp_path):
    job = existing(cluster, tmp_path, {})
    cluster.leaving = 10
    cluster.answer(Request("DELETE", f"{JOBS}/{job['metadata']['name']}", {}, None))
    ends(cluster)
    run(tmp_path)
    assert len(cluster.made) == 1
    assert cluster.most_active == 1


@pytest.mark.parametrize(
    "labels", [{}, {"app.kubernetes.io/managed-by": "somebody"}, {"app.kubernetes.io/managed-by": "finetune-pipelines"}]
)
def test_somebody_elses_job_is_left_alone(cluster, tmp_path, labels):
    job = existing(cluster, tmp_path, {})
    cluster.requests.clear()
    job["metadata"]["labels"] = labels
    error = refused(tmp_path)
    assert type(error) is UserError
    assert job["metadata"]["name"] in str(error)
    assert cluster.asked("DELETE") == cluster.asked("PATCH") == cluster.asked("POST") == []
    assert len(cluster.jobs) == 1


def test_a_launcher_whose_pod_was_deleted_finds_its_job(cluster, tmp_path):
    """Argo starts such a pod again; the run owns the job as well, so Kubernetes does not collect it."""
    existing(cluster, tmp_path, {})
    cluster.delete_pod(POD)
    assert len(cluster.jobs) == 1
    cluster.add_pod({**launcher_pod(), "metadata": {**launcher_pod()["metadata"], "uid": "second-try"}})
    run(tmp_path)
    assert cluster.made == []


# Refusals


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("method", "ending", "right"),
    [
        ("POST", "trainjobs", "create, get, list, watch, patch and delete trainjobs"),
        ("GET", POD, "get, list and watch pods"),
    ],
)  # fmt: skip
def test_a_missing_right_is_named(cluster, tmp_path, status, method, ending, right):
    words = 'trainjobs.trainer.kubeflow.org is forbidden: User "system:serviceaccount:team:x" cannot create resource'
    answer = texts(failure(status, "Forbidden", words))
    cluster.fault = lambda one: answer if (one.method, one.path.endswith(ending)) == (method, True) else None
    error = refused(tmp_path)
    assert type(error) is UserError
    assert right in str(error)
    assert "docs/install.yaml" in str(error)


@pytest.mark.parametrize("what", ["pods", "log", "events", "patch"])
def test_a_right_that_is_only_for_show_ends_no_training(cluster, tmp_path, what):
    existing(cluster, tmp_path, {}) if what == "patch" else None
    cluster.pods[POD]["metadata"]["uid"] = "another"
    answer = texts(failure(403, "Forbidden", "forbidden"))

    def fault(request):
        refuses = {"pods": request.verb == ("pods", "list"), "log": request.verb[0] == "pods/log",
                   "events": request.verb[0] == "events", "patch": request.method == "PATCH"}  # fmt: skip
        return answer if refuses[what] else None

    cluster.fault = fault
    ends(cluster)
    run(tmp_path)
    assert cluster.jobs == {}


def test_no_trainer_is_told(cluster, tmp_path):
    cluster.installed = False
    assert "Kubeflow Trainer 2.2 or newer" in str(refused(tmp_path))


def test_an_old_trainer_is_told_before_anything_starts(cluster, tmp_path):
    cluster.before_2_2 = True
    error = refused(tmp_path)
    assert type(error) is UserError
    assert "runtimePatches" in str(error)
    assert "2.2 or newer" in str(error)
    assert cluster.made == []


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ('admission webhook "validator" denied the request: spec.runtimeRef: Invalid value: specified trainingRuntime '
         "must be created before the TrainJob is created", "docs/training-runtime.yaml"),
        ("exceeded quota: team, requested: count/trainjobs=1", "exceeded quota"),
    ],
)  # fmt: skip
def test_the_words_of_an_admission_are_told(cluster, tmp_path, words, fix):
    answer = texts(failure(403, "Forbidden", words))
    cluster.fault = lambda one: answer if one.method == "POST" else None
    error = refused(tmp_path)
    assert type(error) is UserError
    assert fix in str(error)
    assert "docs/install.yaml" not in str(error)


def test_a_process_outside_of_a_cluster_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KFP_POD_NAME", "x")
    assert "outside of a cluster" in str(refused(tmp_path))


# The API does not answer


def answers(rng, share, server):
    """Let a share of the requests meet a server that is overloaded, breaks the connection, or loses its answer."""

    def fault(request):
        if request.path.endswith("/log"):
            return rng.choice([None, 3, RESET])
        if rng.random() > share:
            return None
        status = rng.choice([429, 500, 502, 503, 504])
        return rng.choice([texts(failure(status, "Busy", "busy")), RESET, LOSE])

    server.fault = fault


def test_storms_of_errors_are_outlasted(cluster, tmp_path):
    for trial in range(TRIALS):
        answers(random.Random(trial), 0.4, cluster)
        ends(cluster, looks=6)
        run(tmp_path, identity=f"training {trial}")
        cluster.fault = lambda request: None
        assert cluster.active == [], f"trial {trial}"
    assert cluster.most_active == 1
    assert len(cluster.made) == TRIALS


def test_an_api_that_never_answers_again_is_an_outage(cluster, tmp_path):
    def fault(request):
        return RESET if cluster.made else None

    cluster.fault = fault
    began = time.monotonic()
    error = refused(tmp_path, times=Times(**{**vars(QUICK), "patience": 0.3}))
    assert type(error) is Outage
    assert error.transient
    assert time.monotonic() - began < LONG
    cluster.fault = lambda request: None
    assert len(cluster.active) == 1  # it is left to itself: the next try follows it
    ends(cluster)
    run(tmp_path)
    assert len(cluster.made) == 1


def test_the_wait_that_a_server_asks_for_is_kept():
    from types import SimpleNamespace

    from steps.launch.trainjob.api import LONGEST_WAIT, _asked_to_wait

    assert _asked_to_wait(SimpleNamespace(headers={"Retry-After": "7"})) == 7
    assert _asked_to_wait(SimpleNamespace(headers={"Retry-After": "9999"})) == LONGEST_WAIT
    assert _asked_to_wait(SimpleNamespace(headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})) == 0
    assert _asked_to_wait(SimpleNamespace(headers=None)) == 0


# Logs


def log_of(count):
    """Return lines of which several share a time."""
    return [f"2026-01-01T00:00:{n // 20:02d}.{(n // 3) % 7:09d}Z line {n}" for n in range(count)]


def shown(caplog):
    return [text for text in caplog.messages if text.startswith("line ")]


def logged(cluster, lines, looks=400):
    """Let node 0 write its log while the job goes on."""

    def behave(job, look):
        if look == 2:
            running(cluster, job)
            cluster.logs[f"{job['metadata']['name']}-node-0-0-r0"] = []
        log = next((log for name, log in cluster.logs.items() if name.endswith("-0-r0")), [])
        log.extend(lines[len(log) : look * 3])
        if len(log) == len(lines):
            for pod in cluster.pods.values():
                if pod["metadata"]["name"] != POD:
                    pod["status"]["phase"] = "Succeeded"
            end(job)

    cluster.behave = behave


@pytest.mark.parametrize("cut", [None, 7, 40])
def test_every_line_of_the_first_node_is_shown_once_whatever_breaks(cluster, tmp_path, caplog, cut):
    lines = sorted(log_of(120))
    logged(cluster, lines)
    seed = random.Random(1)
    cluster.fault = lambda one: seed.choice([cut, cut, None]) if cut and one.path.endswith("/log") else None
    with caplog.at_level(logging.INFO, "finetune"):
        run(tmp_path, times=Times(**{**vars(QUICK), "logs": 10}))
    assert shown(caplog) == [line.split(" ", 1)[1] for line in lines]


def test_lost_logs_fail_nothing(cluster, tmp_path):
    logged(cluster, log_of(30))
    cluster.fault = lambda one: RESET if one.path.endswith("/log") else None
    run(tmp_path, times=Times(**{**vars(QUICK), "logs": 0.1}))
    assert cluster.jobs == {}


def test_a_log_that_says_it_is_done_is_no_success(cluster, tmp_path):
    def behave(job, look):
        if look == 2:
            running(cluster, job)
            for pod in cluster.pods.values():
                if pod["metadata"]["name"] != POD:
                    cluster.logs[pod["metadata"]["name"]] = ["2026-01-01T00:00:00.000000000Z training is complete"]
                    pod["status"] |= {"phase": "Succeeded", **terminated(0, "Completed")}
        if look == 20:
            end(job, "Failed", "FailedJobs")

    cluster.behave = behave
    assert type(refused(tmp_path)) is Outage


# The launcher ends


def forked(cluster, tmp_path, trial=0):
    """Run the launcher in a child process; it exits with 0 if the training is complete."""
    child = os.fork()
    if child:
        return child
    try:
        from steps.running import stop_when_asked

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop_when_asked()
        run(tmp_path, identity=f"training {trial}")
        os._exit(0)
    except BaseException:
        os._exit(1)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def asked_for(cluster, number):
    """Wait until this number of requests was made."""
    limit = time.monotonic() + LONG
    while len(cluster.requests) < number and time.monotonic() < limit:
        time.sleep(0.001)


def test_a_launcher_that_is_killed_finds_its_job_again(cluster, tmp_path):
    """At any moment, also between the request that creates the job and its answer."""
    rng = random.Random(28)
    for trial in range(TRIALS):
        cluster.requests.clear()
        ends(cluster, looks=12)
        child = forked(cluster, tmp_path, trial)
        asked_for(cluster, rng.randrange(1, 14))
        time.sleep(rng.random() * 0.004)
        os.kill(child, signal.SIGKILL)
        ended(child)
        cluster.pods[POD]["metadata"]["uid"] = f"try-{trial}"
        run(tmp_path, identity=f"training {trial}")
        assert cluster.active == [], f"trial {trial}"
    assert cluster.most_active == 1
    names = [job["metadata"]["name"] for job in cluster.made]
    assert len(set(names)) == TRIALS


def test_a_launcher_that_is_stopped_takes_its_job_with_it(cluster, tmp_path):
    rng = random.Random(30)
    cluster.behave = lambda job, look: running(cluster, job) if look == 2 else None
    for trial in range(TRIALS):
        cluster.requests.clear()
        child = forked(cluster, tmp_path, trial)
        asked_for(cluster, rng.randrange(4, 14))
        time.sleep(rng.random() * 0.004)
        os.kill(child, signal.SIGTERM)
        assert ended(child) == 1
        assert cluster.active == [], f"trial {trial}"
    assert cluster.most_active == 1


def test_a_stop_whose_exception_was_lost_is_noticed_at_the_next_look(cluster, tmp_path, monkeypatch):
    """An exception that a signal raises within a destructor is lost."""
    monkeypatch.setattr(stopping, "_number", 15)
    with pytest.raises(running_step.Stopped):
        run(tmp_path)
    assert cluster.active == []
    assert len(cluster.made) == 1


def test_an_interrupt_deletes_the_job_too(cluster, tmp_path):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert cluster.active == []


def test_the_job_of_a_deleted_run_goes_with_it(cluster, tmp_path):
    existing(cluster, tmp_path, {})
    (job,) = cluster.jobs.values()
    job["metadata"]["ownerReferences"] = [one for one in job["metadata"]["ownerReferences"] if one["kind"] == "Pod"]
    cluster.delete_pod(POD)
    assert cluster.jobs == {}
