"""The TrainJob of a training fits the definitions of Kubeflow Trainer 2.3, and takes what it must from its own pod."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from trainer_pods import POD, launcher_pod
from trainer_schema import faults

from steps.launch.trainjob.manifest import job_name, label, manifest_of
from steps.launch.trainjob.own_pod import own_pod
from steps.params.distributed import Processes
from steps.params.nodes import NodeSettings

RUNTIME = yaml.safe_load((Path(__file__).parents[2] / "docs/training-runtime.yaml").read_text())
NODES = NodeSettings(
    cpu="5", memory="95Gi", gpu_type="nvidia.com/gpu", gpu_count=4, node_selector={"node-pool": "gpus"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}], shm_size="5Gi",
    deadline_seconds=3600,
)  # fmt: skip
COMMAND = ["torchrun", "-m", "steps.finetune.process", "s3://bucket/job.json"]


def made(pod=None, nodes=NODES, environment=None, **processes):
    own = own_pod(pod or launcher_pod(), environment or {})
    return manifest_of(job_name(own, "a training"), COMMAND, own, nodes, Processes(nodes=2, per_node=4, **processes))


def patched(job):
    """Return the pod template that the job patches."""
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]


@pytest.mark.parametrize("nodes", [NODES, NodeSettings()], ids=["everything", "defaults"])
@pytest.mark.parametrize("bare", [False, True])
def test_it_fits_the_definitions(nodes, bare):
    pod = launcher_pod()
    if bare:
        pod["spec"] = {"containers": [{"name": "main", "image": "train:1"}]}
    job = made(pod, nodes)
    assert faults(job) == []
    assert json.loads(json.dumps(job)) == job


def test_the_check_refuses_what_older_and_other_definitions_have():
    for where, key, value in (
        ([], "podTemplateOverrides", []),
        (["trainer"], "resources", {}),
        (["runtimePatches", 0, "trainingRuntimeSpec", "template", "spec", "replicatedJobs", 0, "template", "spec",
          "template", "spec"], "priorityClassName", "high"),
        (["runtimePatches", 0, "trainingRuntimeSpec", "template", "spec"], "failurePolicy", {}),
    ):  # fmt: skip
        job = copy.deepcopy(made())
        place = job["spec"]
        for part in where:
            place = place[part]
        place[key] = value
        assert any(key in fault for fault in faults(job)), key
    job = made()
    patched(job)["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    assert any("must not have envs" in fault for fault in faults(job))
    assert faults({**made(), "metadata": {"name": "1st"}})


def test_the_runtime_of_the_documentation_fits_and_says_what_a_job_cannot():
    assert faults(RUNTIME) == []
    assert NodeSettings().runtime == RUNTIME["metadata"]["name"]
    assert NodeSettings().runtime_kind == RUNTIME["kind"]
    template = RUNTIME["spec"]["template"]["spec"]
    (node,) = template["replicatedJobs"]
    job, pod = node["template"]["spec"], node["template"]["spec"]["template"]["spec"]
    assert (node["name"], [one["name"] for one in pod["containers"]]) == ("node", ["node"])
    assert node["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["terminationGracePeriodSeconds"] == NodeSettings().grace_seconds


def restarted(runtime, code=None, disrupted=False):
    """Return what Kubernetes (Job, podFailurePolicy) and JobSet start again when a pod ends so, as they document it."""
    template = runtime["spec"]["template"]["spec"]
    job = template["replicatedJobs"][0]["template"]["spec"]
    reason = "BackoffLimitExceeded" if job["backoffLimit"] == 0 else ""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        conditions = {one["type"] for one in rule.get("onPodConditions", [])}
        inside = codes and code and (code in codes["values"]) == (codes["operator"] == "In")
        if inside or (disrupted and "DisruptionTarget" in conditions):
            reason = {"FailJob": "PodFailurePolicy", "Ignore": "", "Count": reason}[rule["action"]]
            break
    if not reason:
        return "one pod"
    for rule in template["failurePolicy"]["rules"]:
        if reason in rule.get("onJobFailureReasons", [reason]):
            return {"FailJobSet": "nothing", "RestartJobSet": "all"}[rule["action"]]
    return "all" if template["failurePolicy"]["maxRestarts"] else "nothing"


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"code": 2}, "nothing"), ({"code": 3}, "nothing"), ({"code": 6}, "nothing"), ({"code": 5}, "nothing"),
        ({"code": 143}, "all"), ({"code": 70}, "all"),
        ({"code": 1}, "all"), ({"code": 4}, "all"), ({"code": 137, "disrupted": True}, "all"),
        ({"disrupted": True}, "all"),
    ],
)  # fmt: skip
def test_a_preemption_starts_all_nodes_again_and_a_mistake_none(how, what):
    assert restarted(RUNTIME, **how) == what


def test_resources_processes_deadline_and_runtime_are_the_settings():
    spec = made()["spec"]
    amounts = {"cpu": "5", "memory": "95Gi", "nvidia.com/gpu": "4"}
    assert spec["trainer"]["resourcesPerNode"] == {"requests": amounts, "limits": amounts}
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (2, 4)
    assert spec["trainer"]["command"] == COMMAND
    assert spec["activeDeadlineSeconds"] == 3600
    assert spec["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "finetune"}


def test_variables_are_the_users_and_secrets_stay_references():
    env = {entry["name"]: entry for entry in made()["spec"]["trainer"]["env"]}
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {
        "name": "s3",
        "key": "accesskey",
        "optional": False,
    }
    assert env["HF_HOME"] == {"name": "HF_HOME", "value": "/models/huggingface"}
    assert not any(name.startswith(("KFP_", "ARGO_", "_KFP", "METADATA_")) for name in env)
    assert "NODE_CPUS" not in env  # the amount of a container that the nodes do not have
    assert "POD_IP" in env


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MLFLOW_TRACKING_URI": "http://from-the-config-map"}, "valueFrom"),
        ({"MLFLOW_TRACKING_URI": "http://constant"}, "value"),  # the config map, which is optional, has no such key
        ({}, "valueFrom"),
    ],
)
def test_of_a_variable_that_is_set_twice_the_one_that_counts_is_kept(environment, expected):
    (found,) = [one for one in made(environment=environment)["spec"]["trainer"]["env"]
                if one["name"] == "MLFLOW_TRACKING_URI"]  # fmt: skip
    assert expected in found
    assert len(found) == 2


def test_volumes_are_mounted_where_the_task_has_them():
    pod = patched(made())["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    places = {mount["mountPath"]: (mount, volumes[mount["name"]]) for mount in pod["containers"][0]["volumeMounts"]}
    assert set(places) == {"/checkpoints", "/models", "/datasets", "/var/run/secrets/google", "/tmp", "/dev/shm"}
    assert places["/checkpoints"][1]["persistentVolumeClaim"] == {"claimName": "checkpoints"}
    assert places["/datasets"][0]["subPath"] == "datasets"
    assert places["/datasets"][1]["persistentVolumeClaim"] == places["/models"][1]["persistentVolumeClaim"]
    assert places["/var/run/secrets/google"][1]["secret"]["secretName"] == "google"
    assert places["/dev/shm"][1]["emptyDir"] == {"medium": "Memory", "sizeLimit": "5Gi"}


def test_accounts_users_tolerations_and_labels_are_those_of_the_task():
    template = patched(made())
    pod = template["spec"]
    assert pod["serviceAccountName"] == "pipeline-runner"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"] == {"fsGroup": 1000}
    assert pod["containers"][0]["securityContext"]["runAsUser"] == 1000
    assert pod["nodeSelector"] == {"node-pool": "gpus"}
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu", "team"]
    assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    labels = template["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "finetune-pipelines"  # network policies select it
    assert labels["team"] == "fine-tuning"
    assert not any(key.startswith(("pipeline/", "pipelines.kubeflow.org", "workflows.", "kueue.")) for key in labels)


def test_the_job_belongs_to_the_pod_and_to_its_run():
    metadata = made()["metadata"]
    assert [(one["kind"], one["name"]) for one in metadata["ownerReferences"]] == [
        ("Pod", POD), ("Workflow", "dates-x7k2p"),
    ]  # fmt: skip
    assert metadata["labels"]["finetune-pipelines/run"] == "0b1e6f52-2c3d-4a8e-9b1a-1f2e3d4c5b6a"
    assert metadata["labels"]["finetune-pipelines/attempt"] == "1"


def test_the_queue_is_the_parameters_or_that_of_the_task():
    name = "kueue.x-k8s.io/queue-name"
    assert made()["metadata"]["labels"][name] == "of-the-profile"
    assert made(nodes=NODES.model_copy(update={"queue": "large"}))["metadata"]["labels"][name] == "large"
    pod = launcher_pod()
    del pod["metadata"]["labels"][name]
    assert name not in made(pod)["metadata"]["labels"]


def test_a_name_is_the_same_for_every_try_and_for_no_other_task():
    def name(pod, identity="a"):
        return job_name(own_pod(pod, {}), identity)

    again, sibling, other_run = launcher_pod(), launcher_pod(), launcher_pod()
    again["metadata"] |= {"name": "another", "uid": "other"}
    again["metadata"]["annotations"] = {
        "workflows.argoproj.io/node-name": "dates-x7k2p.root.lanes(1:two).finetune.executor(3)"}  # fmt: skip
    sibling["metadata"]["annotations"] = {
        "workflows.argoproj.io/node-name": "dates-x7k2p.root.lanes(0:one).finetune.executor(0)"}  # fmt: skip
    other_run["metadata"]["labels"]["pipeline/runid"] = "1" * 36
    assert name(again) == name(launcher_pod())
    names = {name(launcher_pod()), name(sibling), name(other_run), name(launcher_pod(), "b")}
    assert len(names) == 4
    assert all(len(one) <= 40 and one.startswith("ft-") for one in names)


@pytest.mark.parametrize("text", ["x" * 80, "-a-", "run/1", "dates-" + "y" * 60 + ".z", ""])
def test_every_text_becomes_a_label(text):
    import re

    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label(text))
    assert len(label(text)) <= 63


def test_the_documentation_lists_the_rights_of_the_role():
    root = Path(__file__).parents[2]
    page = (root / "docs/operations.md").read_text()
    role = next(one for one in yaml.safe_load_all((root / "docs/install.yaml").read_text()) if one["kind"] == "Role")
    for rule in role["rules"]:
        for resource in rule["resources"]:
            assert f"| {resource} | {', '.join(rule['verbs'])} |" in page
