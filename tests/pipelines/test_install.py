"""docs/install.yaml is valid, agrees with what the code uses, and is part of ten commands from nothing to a run."""

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from command_line import FINETUNE, with_our_code
from documented import COMMANDS, PAGE, PROFILES, ROOT, arguments, command, kfp
from pods import KUBERNETES, pods, restricted_faults

from pipelines.compile import compile_pipelines
from pipelines.images import CORE, TRAIN
from pipelines.profile import Profile
from pipelines.profile_file import read_profile
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.registration import TRACKING_VARIABLES

TEXT = (ROOT / "docs/install.yaml").read_text()
OBJECTS = {(made["kind"], made["metadata"]["name"]): made for made in yaml.safe_load_all(TEXT)}
PARAMETERS = PARAMETER_MODELS["chat_completion"].model_fields


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Profile, dict, dict]:
    """The first profile of the documentation, and chat_completion compiled with it."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "cluster.yaml").write_text(PROFILES[0])
    profile = read_profile(folder / "cluster.yaml")
    (file,) = compile_pipelines(["chat_completion"], folder, profile=profile)
    spec, platform = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    return profile, spec, platform


@pytest.mark.parametrize("named", OBJECTS, ids="/".join)
def test_every_object_fits_the_schemas_of_kubernetes(named):
    kubernetes_validate.validate(OBJECTS[named], KUBERNETES, strict=True)


def test_no_object_names_a_namespace_so_that_the_command_does():
    assert "namespace:" not in TEXT
    assert len(OBJECTS) == len(list(yaml.safe_load_all(TEXT)))


def test_the_schemas_would_notice_a_wrong_key():
    for made in OBJECTS.values():
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**made, "specs": {}}, KUBERNETES, strict=True)


def test_the_config_map_has_the_default_name_and_the_keys_that_tasks_read():
    made = OBJECTS["ConfigMap", PARAMETERS["mlflow_config_map"].default]
    assert set(made["data"]) <= set(TRACKING_VARIABLES)
    assert all(isinstance(value, str) for value in made["data"].values())
    others = yaml.safe_load("\n".join(re.findall(r"^  # ([A-Z]+_[A-Z_]+: .*)", TEXT, re.M)))  # shown as comments
    assert {*made["data"], *others} == set(TRACKING_VARIABLES)
    assert all(isinstance(value, str) for value in others.values()), "a config map takes texts only"
    assert json.loads(others["MLFLOW_TAGS"])


@pytest.mark.slow
def test_claim_folder_server_and_user_are_those_of_the_documented_profile(plain):
    profile, spec, platform = plain
    (volume,) = profile.volumes
    job = OBJECTS["Job", "checkpoints-writable"]["spec"]["template"]["spec"]
    assert ("PersistentVolumeClaim", volume.claim) in OBJECTS
    assert job["volumes"] == [{"name": volume.claim, "persistentVolumeClaim": {"claimName": volume.claim}}]
    (container,) = job["containers"]
    assert container["volumeMounts"] == [{"name": volume.claim, "mountPath": volume.mount_path}]
    folder = spec["root"]["inputDefinitions"]["parameters"]["checkpoint_dir"]["defaultValue"]
    assert f"folder={folder}\n" in container["args"][0]
    assert OBJECTS["ConfigMap", "mlflow"]["data"]["MLFLOW_TRACKING_URI"] == profile.tracking.uri
    assert container["image"] == f"{profile.images.registry}/{CORE}"
    training = pods(spec, platform)["finetune"]["spec"]["containers"][0]["securityContext"]
    who = job["securityContext"]
    assert {key: who[key] for key in ("runAsUser", "runAsGroup")} == {
        key: training[key] for key in ("runAsUser", "runAsGroup")
    }
    assert who["fsGroup"] == training["runAsGroup"]


def test_the_job_is_allowed_by_the_restricted_standard():
    template = OBJECTS["Job", "checkpoints-writable"]["spec"]["template"]
    assert restricted_faults(template) == []
    loose = {**template["spec"], "securityContext": {"runAsUser": 0}}
    assert restricted_faults({"spec": loose}) == ["runAsNonRoot is not true", "runs as root", "no seccomp profile"]


def test_the_role_has_the_verbs_of_the_launcher_for_both_kinds_of_installations():
    rules = {
        (group, resource): set(rule["verbs"])
        for rule in OBJECTS["Role", "finetune-trainjobs"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rules == {
        ("trainer.kubeflow.org", "trainjobs"): {"create", "get", "list", "watch", "patch", "delete"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "events"): {"list"},
    }
    binding = OBJECTS["RoleBinding", "finetune-trainjobs"]
    assert ("Role", binding["roleRef"]["name"]) in OBJECTS
    assert {subject["name"] for subject in binding["subjects"]} == {"pipeline-runner", "default-editor"}


@pytest.mark.slow
def test_the_network_policies_select_no_pod_until_the_profile_says_so(plain, tmp_path):
    policies = [made["spec"] for (kind, _), made in OBJECTS.items() if kind == "NetworkPolicy"]
    (label,) = {tuple(policy["podSelector"]["matchLabels"].items()) for policy in policies}
    (told,) = re.findall(r"labels: (\{app.*?\})$", TEXT, re.M)
    assert dict(label) == yaml.safe_load(told)
    _, spec, platform = plain
    assert not any(dict(label).items() <= pod["metadata"]["labels"].items() for pod in pods(spec, platform).values())
    profile = Profile.model_validate({"labels": yaml.safe_load(told)})
    (file,) = compile_pipelines(["chat_completion"], tmp_path, profile=profile)
    made = pods(*yaml.load_all(file.read_text(), yaml.CSafeLoader))
    assert all(dict(label).items() <= pod["metadata"]["labels"].items() for pod in made.values())


def test_tasks_reach_dns_their_servers_and_tls_but_no_credentials_of_the_node():
    allowed = OBJECTS["NetworkPolicy", "finetune-egress"]["spec"]["egress"]
    (dns,) = [rule for rule in allowed if "to" not in rule]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    (inside,) = [rule for rule in allowed if "ports" not in rule]
    assert {"podSelector": {}} in inside["to"]  # this namespace
    (outside,) = [rule for rule in allowed if {"to", "ports"} <= set(rule)]
    assert {port["port"] for port in outside["ports"]} == {443, 6443}
    assert ["169.254.0.0/16"] in [place["ipBlock"]["except"] for place in outside["to"]]


def test_a_run_is_at_most_ten_commands_away():
    assert len(COMMANDS) <= 10
    assert {Path(words[0]).name for words in COMMANDS} == {"make", "docker", "kubectl", "aws", "finetune", "kfp"}


def test_the_commands_build_each_image_under_its_tag():
    built = {}
    for words in COMMANDS:
        if words[0] == "docker":
            given = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
            built[given["--tag"]] = given["--file"]
            assert (words[1:3], words[-1]) == (["build", "--push"], ".")
    registry = yaml.safe_load(PROFILES[0])["images"]["registry"]
    assert built == {
        f"{registry}/{CORE}": "containers/core/Dockerfile",
        f"{registry}/{TRAIN}": "containers/train/Dockerfile",
    }
    assert all((ROOT / file).is_file() for file in built.values())


@pytest.mark.slow
def test_the_secret_of_the_hub_has_the_name_and_key_that_tasks_read(plain):
    name, *_, literal = command("kubectl", "create", "secret", "generic")
    assert name == PARAMETERS["huggingface_token_secret"].default
    executors = plain[2]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (keys,) = {
        pair["secretKey"]
        for pod in executors.values()
        for entry in pod.get("secretAsEnv", [])
        for pair in entry["keyToEnv"]
        if pair["envVar"] == "HF_TOKEN"
    }
    assert literal.startswith(f"--from-literal={keys}=")
    s3 = Profile().object_store.s3
    assert f"--from-literal={s3.access_key}=… --from-literal={s3.secret_key}=…" in PAGE
    applied = command("kubectl", "apply")
    assert (ROOT / applied[applied.index("--filename") + 1]).is_file()


@pytest.mark.slow
def test_the_profile_is_written_and_compiled_as_the_commands_say(tmp_path):
    for words in COMMANDS:
        if words[0].endswith("/finetune"):
            arguments, redirected = (words[1:-2], words[-1]) if ">" in words else (words[1:], "")
            done = subprocess.run(
                [*FINETUNE, *arguments], cwd=tmp_path, env=with_our_code(), capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            if redirected:
                (tmp_path / redirected).write_text(done.stdout)
    (file,) = [word for word in kfp("pipeline", "create") if word.endswith(".yaml")]
    assert (tmp_path / file).is_file()


def test_kfp_knows_the_options_of_its_commands():
    from kfp.cli.pipeline import create as upload
    from kfp.cli.run import create as start

    uploaded = upload.make_context("create", kfp("pipeline", "create")).params
    started = start.make_context("create", kfp("run", "create")).params
    assert started["pipeline_name"] == uploaded["pipeline_name"]
    assert started["watch"]
    assert len(started["args"]) > 10


def test_the_arguments_are_those_of_the_example_with_the_types_that_the_backend_takes():
    given = arguments()
    compiled, _ = yaml.load_all((ROOT / "compiled/chat_completion_pipeline.yaml").read_text(), yaml.CSafeLoader)
    inputs = compiled["root"]["inputDefinitions"]["parameters"]
    types = {"STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": int | float}
    for name, value in given.items():
        wanted = types[inputs[name]["parameterType"]]
        assert isinstance(value, wanted), f"{name}={value!r}"
        assert not isinstance(value, bool) or wanted is bool, name
    example = yaml.safe_load((ROOT / "examples/dates/config.yaml").read_text().replace("1.5e-3", "0.0015"))
    source, target = command("aws", "s3", "cp", "--recursive")
    there = {name: str(value).replace(source, target) for name, value in example.items() if name.endswith("_path")}
    assert given == {name: value for name, value in {**example, **there}.items() if name != "pipeline"}
