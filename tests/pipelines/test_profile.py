"""A cluster's profile: its file, and the pods of pipelines that are compiled with it."""

import hashlib
import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from documented import PROFILES as DOCUMENTED
from google.protobuf import json_format
from pods import CLAIM, KUBERNETES, checked, pods, restricted_faults, workspace_claim

from pipelines.catalog import PIPELINES, SWEPT
from pipelines.checking import check
from pipelines.compile import compile_pipelines
from pipelines.images import CORE
from pipelines.profile import Part, Profile
from pipelines.profile_file import as_yaml, read_profile
from steps.errors import SecurityRefusal, UserError
from steps.params.compute import CLUSTER
from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines import SWEEP
from steps.params.reading import read_parameters
from steps.params.registration import COMPILED_AS
from steps.plan.hardware import hardware_of
from steps.wire import load

pytestmark = pytest.mark.slow  # together half a minute: too long for test-fast

# Steps that read models, adapters or rows from where a parameter says.
SOURCE_READERS = ("plan", "import-model", "import-adapter", "prepare-data", "import-models", "prepare-all")
COMPILED = Path(__file__).parents[2] / "compiled"
EVERYTHING = """
images:
  registry: registry.example.com/team
  train: registry.example.com/team/train@sha256:0000000000000000000000000000000000000000000000000000000000000000
  pull_policy: IfNotPresent
  pull_secrets: [pull, pull-too]
object_store:
  s3: {endpoint: "http://store:9000", region: eu-west-1, secret: store, session_token: session}
  google: {secret: google}
  azure: {secret: azure, account_name: name, account_key: key}
tracking: {uri: "http://mlflow:5000", secret: mlflow, username: user, password: password}
volumes:
  - {claim: checkpoints, mount_path: /checkpoints, holds: [checkpoints]}
  - {claim: models, mount_path: /models/, sub_path: team/a, holds: [hub_cache, data]}
instance_types:
  Big-Node: {cpu: 64, memory: 512, gpus: 4, gpu_memory: 48, gpu_type: amd.com/gpu}
defaults: {instance_type_finetune: big-node, learning_rate: 1.0e-4, apply_lora: true, lora_r: 4}
node_selector: {zone: a}
tolerations:
  - {key: team, value: a, effect: NoExecute, seconds: 60}
  - {operator: Exists}
queue: {name: tuning, priority_class: high}
labels: {team: a}
annotations: {sidecar.istio.io/inject: "false"}
pod_security: {run_as_user: 2000, run_as_group: 0}
shared_memory: 16Gi
times: {step: 86400, run: 172800, keep_finished: 3600}
caching: false
choices: false
"""
WORKSPACE = """
workspace: {size: 100Gi, storage_class: fast, access_modes: [ReadWriteMany]}
volumes:
  - {claim: models, mount_path: /models, holds: [hub_cache, data]}
"""
OPENSHIFT = "pod_security: {run_as_user: null, run_as_group: null}"


def written(folder: Path, text: str) -> Path:
    (folder / "cluster.yaml").write_text(text)
    return folder / "cluster.yaml"


def compiled(folder: Path, text: str, name: str) -> tuple[dict, dict]:
    """Compile a pipeline, or the sweep over one, with a profile."""
    swept = name.removesuffix(SWEEP)
    *_, file = compile_pipelines(
        [swept], folder, profile=read_profile(written(folder, text)), sweeps=[swept] if swept != name else ()
    )
    spec, platform = documents(file)
    return spec, platform


def documents(file: Path) -> list[dict]:
    return list(yaml.load_all(file.read_text(), yaml.CSafeLoader))


def variables(pod: dict) -> dict[str, str]:
    """Every environment variable of a pod with its value, or the secret and key that it is read from."""
    made = {}
    for variable in pod["spec"]["containers"][0]["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        made[variable["name"]] = f"{reference['name']}/{reference['key']}" if reference else variable.get("value", "")
    return made


def test_the_printed_profile_is_the_default_and_explains_every_key(tmp_path):
    text = as_yaml()
    assert read_profile(written(tmp_path, text)) == Profile()
    explained = set(text.replace("\n", " ").replace("# ", "").split())

    def described(part: type[Part]) -> None:
        for name, field in part.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
                assert field.annotation.__doc__
                described(field.annotation)
            else:
                assert field.description, f"{part.__name__}.{name}"
                assert set(field.description.split()) <= explained

    described(Profile)


# The other pipelines and sweeps have the flow of one of these.
OF_EACH_KIND = ("chat_completion", "adapter_tools", "chat_completion_sweep")
SWEEPS = tuple(f"{name}{SWEEP}" for name in SWEPT)


@pytest.mark.parametrize(
    "name",
    [name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in (*PIPELINES, *SWEEPS)],
)
def test_a_profile_without_changes_compiles_to_what_is_in_compiled(tmp_path, name):
    spec, platform = compiled(tmp_path, as_yaml(), name)
    assert [spec, platform] == documents(COMPILED / f"{name}_pipeline.yaml")


def test_the_documentation_shows_a_profile_of_three_kinds_of_clusters():
    assert len(DOCUMENTED) == 3


PROFILES = {"everything": EVERYTHING, "workspace": WORKSPACE, "openshift": OPENSHIFT, "default": as_yaml(),
            **{f"documented {number}": text for number, text in enumerate(DOCUMENTED, 1)}}  # fmt: skip
# Each pipeline and each profile once; the other combinations with the long tests.
PODS = [
    pytest.param(name, text, id=f"{name} {profile}",
                 marks=[] if profile == "everything" or name == "chat_completion" else pytest.mark.long)
    for name in (*PIPELINES, *SWEEPS) for profile, text in PROFILES.items()
]  # fmt: skip


def test_the_workspace_holds_the_checkpoints_of_the_run(tmp_path, monkeypatch, tiny_model, chat_file):
    from steps import wire
    from steps.plan.deciding import decide
    from steps.plan.settings import settings_of

    spec, platform = compiled(tmp_path, WORKSPACE, "chat_completion")
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    wanted = {"checkpoint_dir": "/kfp-workspace/checkpoints", "resume_from_checkpoint": "auto"}
    assert {name: inputs[name]["defaultValue"] for name in wanted} == wanted
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m"}
    decided = settings_of(decide("chat_completion", {**given, **wanted}))
    texts = {name: wire.dump(settings.model_dump(mode="json")) for name, settings in decided.items()}
    made = pods(spec, platform, texts)
    mounted = {
        step for step, pod in made.items() for mount in pod["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"] == "/kfp-workspace"
    }  # fmt: skip
    assert mounted == {"plan", "finetune"}
    claims = [v["persistentVolumeClaim"]["claimName"] for v in made["finetune"]["spec"]["volumes"]
              if "persistentVolumeClaim" in v]  # fmt: skip
    assert claims == [CLAIM]
    for pod in made.values():
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert restricted_faults(pod) == []


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (WORKSPACE, {"accessModes": ["ReadWriteMany"], "storageClassName": "fast"}),
        ("workspace: {size: 100Gi}", {"accessModes": ["ReadWriteOnce"]}),
    ],
)
def test_the_claim_of_the_workspace_is_valid(tmp_path, text, spec):
    _, platform = compiled(tmp_path, text, "chat_completion")
    claim = workspace_claim(platform)
    assert claim["spec"] == {**spec, "resources": {"requests": {"storage": "100Gi"}}}
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)


def test_the_workspace_is_compiled_as_kfps_own(tmp_path):
    from kfp import compiler, dsl

    @dsl.component
    def nothing() -> None:
        pass

    claim = {"accessModes": ["ReadWriteMany"], "storageClassName": "fast"}
    kubernetes = dsl.KubernetesWorkspaceConfig(pvcSpecPatch=claim)
    config = dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="100Gi", kubernetes=kubernetes))

    @dsl.pipeline(pipeline_config=config)
    def own() -> None:
        nothing()

    compiler.Compiler().compile(own, str(tmp_path / "own.yaml"))
    _, expected = documents(tmp_path / "own.yaml")
    _, platform = compiled(tmp_path, WORKSPACE, "chat_completion")
    ours = platform["platforms"]["kubernetes"]["pipelineConfig"]
    assert ours == expected["platforms"]["kubernetes"]["pipelineConfig"]


def test_without_a_workspace_none_is_made_and_none_is_mounted(tmp_path):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    assert workspace_claim(platform) is None
    for pod in pods(spec, platform).values():
        assert all(volume["name"] != "kfp-workspace" for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize(("name", "text"), PODS)
def test_every_pod_is_valid_and_allowed_by_the_restricted_standard(tmp_path, name, text):
    spec, platform = compiled(tmp_path, text, name)
    assert list(check(spec, platform)) == []
    for step, pod in pods(spec, platform).items():
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert restricted_faults(pod) == [], step


def test_the_tests_would_see_a_wrong_pod(tmp_path):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    made = pods(spec, platform)["finetune"]
    made["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] = False
    made["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert restricted_faults(made) == ["volume host", "runAsNonRoot is not true"]
    made["spec"]["nodeSelectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-plan"]["imagePullSecrets"] = []
    with pytest.raises(json_format.ParseError):
        pods(spec, platform)
    spec["root"]["dags"] = {}
    with pytest.raises(json_format.ParseError):
        checked(spec, platform)


def test_a_training_pod_has_what_the_profile_says(tmp_path):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    pod = pods(spec, platform)["finetune"]
    assert variables(pod) == {
        **{name: "" for name in variables(pod) if name.startswith(("MLFLOW", "HF_MLFLOW", "DISABLE"))},
        "AWS_ENDPOINT_URL": "http://store:9000", "MLFLOW_S3_ENDPOINT_URL": "http://store:9000",
        "AWS_DEFAULT_REGION": "eu-west-1", "GOOGLE_APPLICATION_CREDENTIALS": "/var/run/secrets/google/key.json",
        "AWS_ACCESS_KEY_ID": "store/accesskey", "AWS_SECRET_ACCESS_KEY": "store/secretkey",
        "AWS_SESSION_TOKEN": "store/session", "AZURE_STORAGE_ACCOUNT_NAME": "azure/name",
        "AZURE_STORAGE_ACCOUNT_KEY": "azure/key", "MLFLOW_TRACKING_USERNAME": "mlflow/user",
        "MLFLOW_TRACKING_PASSWORD": "mlflow/password",
    }  # fmt: skip
    (uri, *_) = [v for v in pod["spec"]["containers"][0]["env"] if v["name"] == "MLFLOW_TRACKING_URI"]
    assert uri["value"] == "http://mlflow:5000"
    mounts = {mount["name"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["checkpoints"]["mountPath"] == "/checkpoints"
    assert set(mounts) == {"checkpoints", "google", "dshm"}
    (memory,) = [v["emptyDir"] for v in pod["spec"]["volumes"] if v["name"] == "dshm"]
    assert memory == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert pod["metadata"]["labels"] == {
        "team": "a", "kueue.x-k8s.io/queue-name": "tuning", "kueue.x-k8s.io/priority-class": "high",
    }  # fmt: skip
    assert pod["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert pod["spec"]["tolerations"][1:] == [
        {"key": "team", "operator": "Equal", "value": "a", "effect": "NoExecute", "tolerationSeconds": 60},
        {"operator": "Exists"},
    ]
    assert [secret["name"] for secret in pod["spec"]["imagePullSecrets"]] == ["pull", "pull-too"]
    context = pod["spec"]["containers"][0]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (2000, 0)
    assert pod["spec"]["activeDeadlineSeconds"] == 86400
    assert pod["spec"]["containers"][0]["image"].startswith("registry.example.com/team/train@sha256:")


def test_the_pods_of_a_sweep_are_those_of_a_single_run(tmp_path):
    profile = read_profile(written(tmp_path, EVERYTHING))
    _, short, swept = compile_pipelines(
        ["chat_completion"], tmp_path, profile=profile, short=True, sweeps=["chat_completion"]
    )
    single, made = (pods(*documents(file)) for file in (short, swept))
    others = {"import-models": "import-model", "prepare-all": "prepare-data", "trial": "finetune",
              "evaluate-best": "evaluate"}  # fmt: skip
    same = {**others, **{step: step for step in ("plan", "report", "register-model")}}
    assert set(made) == {*same, "choose-trial"}
    for step, name in same.items():
        assert without_command(made[step]) == without_command(single[name]), step
    assert without_command(made["choose-trial"]) == without_command(single["register-model"])
    volumes = {step: {volume["name"] for volume in pod["spec"]["volumes"]} for step, pod in made.items()}
    assert {step for step, names in volumes.items() if "dshm" in names} == {"trial", "evaluate-best"}
    assert {step for step, names in volumes.items() if "checkpoints" in names} == {"plan", "trial"}


def without_command(pod: dict) -> dict:
    copied = json.loads(json.dumps(pod))
    main = copied["spec"]["containers"][0]
    main.pop("command")
    main["env"] = [one for one in main.get("env", []) if one["name"] != COMPILED_AS]  # the digest of the pipeline
    return copied


def test_the_workspace_of_a_sweep_is_mounted_where_the_settings_hold_its_path(
    tmp_path, monkeypatch, tiny_model, chat_file
):
    from steps.plan.sweeps import decide_sweep, lanes_of

    spec, platform = compiled(tmp_path, WORKSPACE, "chat_completion_sweep")
    command = spec["deploymentSpec"]["executors"]["exec-plan"]["container"]["command"]
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m",
             "trials": [{"seed": 1}, {"seed": 2}], **load(command[-1])}  # fmt: skip
    lanes = lanes_of(decide_sweep("chat_completion_sweep", given))
    made = pods(spec, platform, {"lanes": str(lanes)})
    mounted = {step for step, pod in made.items() for mount in pod["spec"]["containers"][0]["volumeMounts"]
               if mount["mountPath"] == "/kfp-workspace"}  # fmt: skip
    assert mounted == {"trial"}
    for pod in made.values():
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert restricted_faults(pod) == []


def test_each_step_gets_only_what_it_needs(tmp_path):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    made = pods(spec, platform)
    credentials = ("AWS_", "AZURE_", "MLFLOW_TRACKING_P", "GOOGLE")
    with_some = {step for step, pod in made.items() if any(name.startswith(credentials) for name in variables(pod))}
    assert with_some == {"plan", "import-model", "prepare-data", "finetune", "report", "register-model"}
    logged_in = {step for step, pod in made.items() if "MLFLOW_TRACKING_PASSWORD" in variables(pod)}
    assert logged_in == {"plan", "import-model", "finetune", "report", "register-model"}
    caches = {step for step, pod in made.items() if "HF_HOME" in variables(pod)}
    assert caches == {"plan", "import-model", "prepare-data"}
    assert variables(made["import-model"])["HF_HOME"] == "/models/huggingface"
    assert {step for step, pod in made.items() if pod["spec"].get("nodeSelector") == {"zone": "a"}} == {
        "plan", "report", "register-model",
    }  # fmt: skip


def test_the_signing_key_is_a_file_in_the_plan_and_where_versions_are_registered(tmp_path):
    text = "signing: {secret: our-key, key: private.pem}\nimages: {registry: registry.example.com/team}"
    for name in ("chat_completion", f"chat_completion{SWEEP}"):
        made = pods(*compiled(tmp_path, text, name))
        path = "/var/run/secrets/signing/private.pem"
        given = {step for step, pod in made.items() if variables(pod).get("FINETUNE_SIGNING_KEY") == path}
        mounted = {
            step: volume["secret"]["optional"]
            for step, pod in made.items()
            for volume in pod["spec"].get("volumes", ()) if volume.get("secret", {}).get("secretName") == "our-key"
        }  # fmt: skip
        assert given == set(mounted) == {"plan", "register-model"}
        assert all(mounted.values())  # the pod starts without the secret, and its plan says what is missing


def test_a_registration_is_told_the_images_and_the_pipeline_that_it_belongs_to(tmp_path):
    core = f"{CORE.partition(':')[0]}@sha256:{'0' * 64}"
    (tmp_path / "plain").mkdir()
    for given in (
        {"images": {CORE: core}},
        {"profile": read_profile(written(tmp_path, EVERYTHING)), "images": {CORE: core}},
    ):
        (file,) = compile_pipelines(["chat_completion"], tmp_path / "plain", **given)
        spec, platform = documents(file)
        made = pods(spec, platform)
        assert [step for step, pod in made.items() if COMPILED_AS in variables(pod)] == ["register-model"]
        told = json.loads(variables(made["register-model"])[COMPILED_AS])
        assert core in told["images"]
        assert set(told["images"]) == {pod["spec"]["containers"][0]["image"] for pod in made.values()}
        # The digest is that of the file without this variable.
        lines = file.read_text().splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if COMPILED_AS in line)
        alone = lines[at - 1].strip() == "env:" and "- name:" not in lines[at + 2]
        rest = "".join(lines[: at - alone] + lines[at + 2 :])
        assert hashlib.sha256(rest.encode()).hexdigest() == told["spec"]


@pytest.mark.parametrize("name", [*PIPELINES, *SWEEPS])
def test_every_task_that_tracks_can_log_in_and_every_one_that_reads_sources_has_a_token(tmp_path, name):
    spec, platform = compiled(tmp_path, EVERYTHING, name)
    rewarded = name in ("grpo_chat_completion", "verl_finetune")  # perhaps with a reward model of the Hub
    judging = ("finetune", "evaluate") if rewarded else ()
    readers = (*SOURCE_READERS, *judging)
    for step, pod in pods(spec, platform).items():
        given = variables(pod)
        assert ("MLFLOW_TRACKING_PASSWORD" in given) == ("MLFLOW_TRACKING_URI" in given), step
        assert ("HF_TOKEN" in given) == (step in readers), step
        assert ("HF_HOME" in given) == (step in readers), step


def test_flags_override_the_images_of_a_profile(tmp_path):
    profile = read_profile(written(tmp_path, EVERYTHING))
    images = {CORE: "core@sha256:" + "1" * 64}
    (file,) = compile_pipelines(["chat_completion"], tmp_path, images=images, profile=profile)
    spec, _ = yaml.safe_load_all(file.read_text())
    used = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert used == {images[CORE], profile.images.train}
    (file,) = compile_pipelines(["chat_completion"], tmp_path, image_prefix="other/place", profile=profile)
    spec, _ = yaml.safe_load_all(file.read_text())
    used = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert used == {f"other/place/{CORE}", profile.images.train}


def test_the_run_has_limits_and_reuses_nothing(tmp_path):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    assert platform["platforms"]["kubernetes"]["pipelineConfig"] == {
        "activeDeadlineSeconds": 172800, "resourceTtlOnCompletion": 3600,
    }  # fmt: skip
    assert "enableCache" not in str(spec)
    assert "literals" not in str(spec)


def test_defaults_are_the_clusters_own_and_a_training_resumes_by_itself(tmp_path):
    spec, _ = compiled(tmp_path, EVERYTHING, "chat_completion")
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    wanted = {"instance_type_finetune": "big-node", "learning_rate": 1e-4, "apply_lora": True, "lora_r": 4,
              "checkpoint_dir": "/checkpoints/checkpoints", "resume_from_checkpoint": "auto"}  # fmt: skip
    assert {name: inputs[name]["defaultValue"] for name in wanted} == wanted
    tools, _ = compiled(tmp_path, EVERYTHING, "adapter_tools")
    assert "learning_rate" not in tools["root"]["inputDefinitions"]["parameters"]


def test_the_plan_knows_the_clusters_instance_types_and_nodes(tmp_path, monkeypatch, tiny_model, chat_file):
    spec, platform = compiled(tmp_path, EVERYTHING, "chat_completion")
    told = variables(pods(spec, platform)["plan"])[CLUSTER]
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "compute_finetune": "gpus",
             "instance_type_finetune": "BIG-node", "number_of_gpu_to_use_finetuning": 1}  # fmt: skip

    def hardware() -> dict:
        parameters = read_parameters("chat_completion", given).parameters
        assert isinstance(parameters, SupervisedParameters)
        return hardware_of(parameters)

    with pytest.raises(UserError, match="a known instance type"):
        hardware()
    monkeypatch.setenv(CLUSTER, told)
    made = hardware()
    assert (made["finetune"].gpu_type, made["finetune"].gpu_count, made["finetune"].gpu_memory) == (
        "amd.com/gpu",
        "1",
        48,
    )
    assert (made["finetune"].cpu, made["finetune"].memory) == ("14", "108Gi")  # a quarter of 90 % and of 85 %
    assert made["finetune"].node_selector == {"zone": "a", "node-pool": "gpus"}
    assert made["import"].node_selector == {"zone": "a"}


WRONG = {
    "unknown key": ("imagse: {}", "imagse", "did you mean images?"),
    "unknown inner key": ("object_store: {s3: {endpont: x}}", "object_store.s3.endpont", "did you mean endpoint?"),
    "unknown key in a list": (
        "volumes: [{claim: a, mount_path: /a, holds: [data], acess: b}]", "volumes.0.acess", "claim",
    ),
    "unknown key of a type": ("instance_types: {a: {cpu: 1, memory: 1, gpu: 2}}", "instance_types.a.gpu", "gpus"),
    "relative path": ("volumes: [{claim: a, mount_path: a, holds: [data]}]", "volumes.0.mount_path", "'a'"),
    "holds nothing": ("volumes: [{claim: a, mount_path: /a, holds: []}]", "volumes.0.holds", "[]"),
    "holds what nobody knows": (
        "volumes: [{claim: a, mount_path: /a, holds: [cache]}]", "volumes.0.holds.0", "hub_cache",
    ),
    "one path twice": (
        "volumes: [{claim: a, mount_path: /a, holds: [data]}, {claim: b, mount_path: /a/, holds: [hub_cache]}]",
        "volumes", "two volumes are mounted at /a",
    ),
    "two for checkpoints": (
        "volumes: [{claim: a, mount_path: /a, holds: [checkpoints]}, {claim: b, mount_path: /b, holds: [checkpoints]}]",
        "volumes", "two volumes hold checkpoints",
    ),
    "workspace without a unit": ("workspace: {size: 100}", "workspace.size", "100"),
    "workspace that nobody can write": (
        "workspace: {size: 1Gi, access_modes: [ReadOnlyMany]}", "workspace.access_modes.0", "ReadWriteMany",
    ),
    "workspace that holds a cache": ("workspace: {size: 1Gi, holds: [hub_cache]}", "workspace.holds.0", "checkpoints"),
    "workspace and a volume for checkpoints": (
        "workspace: {size: 1Gi}\nvolumes: [{claim: a, mount_path: /a, holds: [checkpoints]}]",
        "volumes", "a volume and the workspace hold checkpoints",
    ),
    "volume in the workspace": (
        "workspace: {size: 1Gi}\nvolumes: [{claim: a, mount_path: /kfp-workspace/a, holds: [data]}]",
        "volumes", "the place of the workspace",
    ),
    "volume with the workspace's name": (
        "workspace: {size: 1Gi}\nvolumes: [{claim: kfp-workspace, mount_path: /a, holds: [data]}]",
        "volumes", "the name of the workspace's volume",
    ),
    "root": ("pod_security: {run_as_user: 0}", "pod_security.run_as_user", "0"),
    "memory without a unit": ("shared_memory: 8", "shared_memory", "8"),
    "name of a secret": ("tracking: {secret: My_Secret}", "tracking.secret", "My_Secret"),
    "unknown parameter": ("defaults: {lerning_rate: 1.0}", "defaults.lerning_rate", "did you mean learning_rate?"),
    "wrong type of a default": ("defaults: {lora_r: many}", "defaults.lora_r", "'many'"),
    "default out of bounds": ("defaults: {lora_r: 0}", "defaults.lora_r", "greater than or equal to 1"),
    "default that is no choice": ("defaults: {peft_type: lara}", "defaults.peft_type", "'lara'"),
    "toleration": ("tolerations: [{operator: Exists, key: a, value: b}]", "tolerations.0", "no meaning"),
    "toleration without a key": ("tolerations: [{value: b}]", "tolerations.0", "needs a key"),
    "seconds": ("tolerations: [{key: a, seconds: 5}]", "tolerations.0", "NoExecute"),
    "negative time": ("times: {step: -1}", "times.step", "-1"),
    "a list": ("- a", "cluster.yaml", "a mapping"),
    "no YAML": ("a: [", "cluster.yaml", "valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_profile_is_refused_with_the_place(tmp_path, case):
    text, where, told = WRONG[case]
    with pytest.raises(UserError) as caught:
        read_profile(written(tmp_path, text))
    (problem,) = caught.value.problems
    assert where in problem.where
    assert told in str(problem)
    assert problem.fix


def test_every_problem_of_a_profile_is_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        read_profile(written(tmp_path, "a: 1\ntimes: {step: -1, stop: 2}\nqueue: {name: A}"))
    assert [problem.where.split(": ")[1] for problem in caught.value.problems] == [
        "queue.name", "times.step", "times.stop", "a",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["tracking: {secret: hf_%s}", "labels: {token: [hf_%s]}", "defaults: {a: {b: hf_%s}}"])
def test_a_secret_in_a_profile_is_refused_and_not_printed(tmp_path, text):
    secret = "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"
    with pytest.raises(SecurityRefusal) as caught:
        read_profile(written(tmp_path, text % secret))
    assert secret not in str(caught.value)
    assert json.dumps(caught.value.as_json("finetune"))
