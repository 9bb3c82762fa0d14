"""`finetune reap` deletes the TrainJobs of runs that have ended, and no others."""

import json
import time

import pytest
import yaml
from documented import ROOT
from trainer_pods import POD, RUN_ID, launcher_pod
from trainer_server import RESET, TrainerServer, end, failure, texts
from waiting import time_with

from pipelines import reaping
from steps.launch.trainjob.manifest import job_name, manifest_of
from steps.launch.trainjob.own_pod import own_pod
from steps.params.distributed import Processes
from steps.params.nodes import NodeSettings


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A cluster with the pod of a task, to which kubeconfig leads."""
    server = TrainerServer()
    server.add_pod(launcher_pod())
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server.url}}], "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
    }))  # fmt: skip
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(reaping, "SETTLE", 0.0)
    monkeypatch.setattr(reaping.reap, "__defaults__", (*reaping.reap.__defaults__[:4], 0.0, lambda _: None))
    yield server
    server.close()


def job(server, identity="a"):
    """Let a launcher have made a job."""
    pod = own_pod(server.pods[POD], {})
    made = manifest_of(job_name(pod, identity), ["x"], pod, NodeSettings(), Processes(nodes=2))
    from trainer_server import JOBS, Request

    status, made = server.answer(Request("POST", JOBS, {}, made))
    assert status == 201
    return server.jobs[made["metadata"]["name"]]


def ended(server):
    """Let the task's pod have ended."""
    server.pods[POD]["status"]["phase"] = "Failed"


def test_the_job_of_a_run_that_ended_is_deleted(cluster, finetune):
    name = job(cluster)["metadata"]["name"]
    ended(cluster)
    done = finetune("reap")
    assert done.code == 0, done.err
    assert done.out.startswith(f"deleted {name}: not ended, and no pod of its run {RUN_ID}")
    assert cluster.jobs == {}
    assert "no TrainJobs of ours in namespace team" in finetune("reap").out


def test_the_job_of_a_run_that_goes_on_stays(cluster, finetune):
    name = job(cluster)["metadata"]["name"]
    assert f"kept {name}" in finetune("reap").out
    ended(cluster)
    cluster.add_pod({**launcher_pod(), "metadata": {**launcher_pod()["metadata"], "name": "a-second-try", "uid": "2"}})
    assert f"kept {name}" in finetune("reap").out
    cluster.pods.pop(POD)
    assert f"kept {name}" in finetune("reap").out
    assert len(cluster.jobs) == 1


def test_a_task_outside_of_kfp_is_known_by_its_pod(cluster, finetune):
    del cluster.pods[POD]["metadata"]["labels"]["pipeline/runid"]
    name = job(cluster)["metadata"]["name"]
    assert f"kept {name}" in finetune("reap").out
    cluster.pods[POD]["metadata"]["uid"] = "another pod of this name"
    assert f"deleted {name}" in finetune("reap").out


def test_pods_that_are_gone_are_looked_for_twice(cluster, finetune, monkeypatch):
    """Within a minute KFP starts a pod that was deleted again."""
    name = job(cluster)["metadata"]["name"]
    pod = cluster.pods.pop(POD)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        cluster.pods[POD] = pod

    monkeypatch.setattr(reaping.reap, "__defaults__", (*reaping.reap.__defaults__[:4], 60.0, lambda _: None))
    monkeypatch.setattr(reaping, "time", time_with(sleep=sleep))
    assert f"kept {name}" in finetune("reap").out
    assert waits == [60.0]
    assert len(cluster.jobs) == 1


def test_a_dry_run_deletes_nothing(cluster, finetune):
    name = job(cluster)["metadata"]["name"]
    ended(cluster)
    told = json.loads(finetune("reap", "--dry-run", "--json").out)
    assert list(told["removed"]) == [name]
    assert told["dry_run"]
    assert finetune("reap", "--dry-run").out.startswith(f"would delete {name}")
    assert cluster.asked("DELETE") == []


def test_a_job_that_failed_stays_for_a_day(cluster, finetune):
    made = job(cluster)
    end(made, "Failed")
    ended(cluster)
    name = made["metadata"]["name"]
    assert f"kept {name}: failed 0 h ago" in finetune("reap").out
    made["status"]["conditions"][0]["lastTransitionTime"] = time.strftime(
        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 25 * 3600)
    )
    assert f"deleted {name}: failed" in finetune("reap").out


def test_the_jobs_of_others_are_left_alone(cluster, finetune):
    made = job(cluster)
    ended(cluster)
    made["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "somebody"}
    assert "no TrainJobs of ours" in finetune("reap").out
    assert len(cluster.jobs) == 1


def test_a_job_that_is_gone_meanwhile_is_no_error(cluster, finetune):
    made = job(cluster)
    ended(cluster)

    def fault(request):
        if request.method == "DELETE":
            cluster.jobs.clear()

    cluster.fault = fault
    assert finetune("reap").code == 0
    assert made


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (texts(failure(403, "Forbidden", "no")), 2, "docs/install.yaml"),
        (texts(failure(503, "Unavailable", "no")), 4, "run again"),
        (RESET, 4, "run again"),
    ],
)
def test_a_refusal_says_what_to_do(cluster, finetune, answer, code, words):
    cluster.fault = lambda request: answer
    done = finetune("reap")
    assert done.code == code
    assert words in done.err


def test_no_trainer_and_no_cluster_are_told(cluster, finetune):
    cluster.installed = False
    assert "Kubeflow Trainer 2.2 or newer" in finetune("reap").err
    done = finetune("reap", "--kube-context", "elsewhere")
    assert done.code == 2
    assert "--kube-context" in done.err


def test_the_rights_are_those_of_the_documented_role(cluster, finetune):
    role = next(one for one in yaml.safe_load_all((ROOT / "docs/install.yaml").read_text()) if one["kind"] == "Role")
    granted = {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    job(cluster)
    ended(cluster)
    finetune("reap")
    assert cluster.verbs() <= granted
