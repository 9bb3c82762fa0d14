"""What a cluster is like: images, credentials, volumes, instance types, scheduling and security, in one YAML file.

`finetune profile` prints a file with every key, its default and its meaning (`profile_file.py`); `compile --profile
FILE` writes pipelines for that cluster (`profiled.py`). A profile names secrets and their keys, never their values. To
add a setting: a field here, and what it changes in the compiled YAML in `profiled.py`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steps.params.compute import SHARED_MEMORY, WORKSPACE

WORKSPACE_NAME = WORKSPACE.removeprefix("/")  # KFP's name of the volume in a pod
# Kubernetes' rules for names of objects, and for paths that KFP can mount.
ObjectName = Annotated[str, Field(pattern=r"^$|^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
SecretKey = Annotated[str, Field(pattern=r"^$|^[-._a-zA-Z0-9]{1,253}$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:]+$")]
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
Labels = dict[str, str]


class Part(BaseModel):
    """A section of the profile."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class Images(Part):
    """Where the images are, and how they are pulled."""

    registry: str = ""
    """Registry and project, put before the name and version of every image."""

    core: str = ""
    """Whole reference of the image without torch, for example with a digest; empty: registry, name and version."""

    train: str = ""
    """The same of the image with torch."""

    verl: str = ""
    """The same of the image with verl."""

    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Kubernetes' imagePullPolicy; empty: the cluster's default."""

    pull_secrets: list[ObjectName] = []
    """Secrets to pull images with."""


class S3(Part):
    """S3 and stores that speak its protocol."""

    endpoint: str = ""
    """URL of the store; empty: Amazon's."""

    region: str = ""
    """Region of the buckets; empty: the client's default."""

    secret: ObjectName = ""
    """Secret with the credentials; empty: none, the service account of the pods has access."""

    access_key: SecretKey = "accesskey"
    """Key of the secret with the access key; becomes AWS_ACCESS_KEY_ID."""

    secret_key: SecretKey = "secretkey"
    """Key of the secret with the secret key; becomes AWS_SECRET_ACCESS_KEY."""

    session_token: SecretKey = ""
    """Key of the secret with the session token, if there is one; becomes AWS_SESSION_TOKEN."""


class Google(Part):
    """Google Cloud Storage."""

    secret: ObjectName = ""
    """Secret with the key file of a service account; empty: none."""

    file: SecretKey = "key.json"
    """Key of the secret with that file; GOOGLE_APPLICATION_CREDENTIALS names its path."""


class Azure(Part):
    """Azure Blob Storage; each key of the secret that is named becomes a variable AZURE_STORAGE_…."""

    secret: ObjectName = ""
    """Secret with the credentials; empty: none."""

    account_name: SecretKey = ""
    """Key of the secret with the storage account's name."""

    account_key: SecretKey = ""
    """Key of the secret with the account's key."""

    connection_string: SecretKey = ""
    """Key of the secret with a connection string."""

    sas_token: SecretKey = ""
    """Key of the secret with a SAS token."""

    tenant_id: SecretKey = ""
    """Key of the secret with the tenant of a service principal."""

    client_id: SecretKey = ""
    """Key of the secret with the service principal's id."""

    client_secret: SecretKey = ""
    """Key of the secret with the service principal's secret."""


class ObjectStore(Part):
    """Credentials with which the steps read models and data, and write to MLflow's artifact store."""

    s3: S3 = S3()
    google: Google = Google()
    azure: Azure = Azure()


class Tracking(Part):
    """The MLflow server."""

    uri: str = ""
    """Its address; becomes MLFLOW_TRACKING_URI. The config map named by mlflow_config_map overrides it."""

    secret: ObjectName = ""
    """Secret with the credentials; empty: none."""

    username: SecretKey = ""
    """Key of the secret with the user's name."""

    password: SecretKey = ""
    """Key of the secret with the password."""

    token: SecretKey = ""
    """Key of the secret with a token."""


class Signing(Part):
    """The key that signs registered versions."""

    secret: ObjectName = ""
    """Secret with a private key on an elliptic curve, as PEM without a password; empty: versions are not signed."""

    key: SecretKey = "key.pem"
    """Key of the secret with that file; FINETUNE_SIGNING_KEY names its path."""


class Volume(Part):
    """An existing persistent volume claim. User and group of `pod_security` must be allowed to write to it."""

    claim: Annotated[ObjectName, Field(min_length=1)]
    """Name of the claim."""

    mount_path: MountPath
    """Where it is mounted."""

    sub_path: str = ""
    """Folder of the volume that is mounted; empty: its root."""

    holds: list[Literal["checkpoints", "hub_cache", "data"]] = Field(min_length=1)
    """checkpoints: of every training, each in a folder of its own settings, from which a started-again pod resumes;
    hub_cache: downloads from the Hub, shared by runs; data: models and rows that parameters name by path."""


class Workspace(Part):
    """A volume at /kfp-workspace that KFP makes for each run and deletes with it: a pod that is started again finds it,
    another run does not. Results of tasks that mount it are not reused by other runs."""

    size: Annotated[str, Field(pattern=r"^$|^[1-9][0-9]*(Mi|Gi|Ti)$")] = ""
    """Its size, for example 100Gi; empty: no workspace."""

    storage_class: ObjectName = ""
    """Storage class, whose volumes user or group of `pod_security` must be allowed to write; empty: the default."""

    access_modes: list[Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]] = Field(
        ["ReadWriteOnce"], min_length=1
    )
    """How pods may mount it. plan mounts it first: a disk of one zone keeps the run's pods there."""

    holds: list[Literal["checkpoints"]] = Field(["checkpoints"], min_length=1)
    """checkpoints: of the run's training."""


class Toleration(Part):
    """A taint that every pod tolerates."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    seconds: int = Field(0, ge=0)
    """How long it is tolerated; 0: for ever. Only with the effect NoExecute."""

    @model_validator(mode="after")
    def _as_kubernetes_demands(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("a value has no meaning with the operator Exists")
        if self.operator == "Equal" and not self.key:
            raise ValueError("the operator Equal needs a key")
        if self.seconds and self.effect != "NoExecute":
            raise ValueError("seconds need the effect NoExecute")
        return self


class Queue(Part):
    """Kueue."""

    name: ObjectName = ""
    """Local queue in which the pods wait; empty: Kueue is not used."""

    priority_class: ObjectName = ""
    """Workload priority class of Kueue; empty: none."""


class InstanceType(Part):
    """Resources of one machine, of which tasks request a part; 10 % CPU and 15 % memory are left to the system."""

    cpu: int = Field(ge=1)
    """CPUs."""

    memory: int = Field(ge=1)
    """GiB."""

    gpus: int = Field(0, ge=0)
    """GPUs."""

    gpu_memory: int = Field(0, ge=0)
    """GiB of one GPU."""

    gpu_type: str = Field("nvidia.com/gpu", min_length=1)
    """Resource name of its GPUs."""


class PodSecurity(Part):
    """Who runs in the containers: never root."""

    run_as_user: int | None = Field(1000, ge=1)
    """User id; null: the cluster assigns one, as OpenShift does."""

    run_as_group: int | None = Field(1000, ge=0)
    """Group id; null: the cluster assigns one."""


class Times(Part):
    """Limits in seconds; 0: none."""

    step: int = Field(0, ge=0)
    """A pod that runs longer ends as failed."""

    run: int = Field(0, ge=0)
    """A run that takes longer ends as failed."""

    keep_finished: int = Field(0, ge=0)
    """Pods of a finished run are deleted after this time; 0: the cluster's default."""


class Profile(Part):
    """A cluster, as the pipelines need to know it."""

    images: Images = Images()
    object_store: ObjectStore = ObjectStore()
    tracking: Tracking = Tracking()
    signing: Signing = Signing()

    volumes: list[Volume] = []
    """Persistent volume claims: claim, mount_path, sub_path, holds (checkpoints, hub_cache, data)."""

    workspace: Workspace = Workspace()

    instance_types: dict[str, InstanceType] = {}
    """Instance types by name, beside those that are known: cpu, memory (GiB), gpus, gpu_memory (GiB), gpu_type."""

    defaults: dict[str, Any] = {}
    """Other defaults of parameters, for example instance_type_finetune; every run can override them."""

    service_account: ObjectName = ""
    """Service account of the runs that `submit` and `schedule` start; empty: KFP's own, such as pipeline-runner."""

    node_selector: Labels = {}
    """Labels of the nodes for every pod; compute_* parameters add theirs."""

    tolerations: list[Toleration] = []
    """Taints that every pod tolerates: key, operator, value, effect, seconds. Those of GPUs are tolerated anyway."""

    queue: Queue = Queue()

    labels: Labels = {}
    """Labels of every pod."""

    annotations: Labels = {}
    """Annotations of every pod."""

    pod_security: PodSecurity = PodSecurity()

    shared_memory: Quantity = SHARED_MEMORY
    """Size of /dev/shm in pods with GPUs, which KFP fixes when it compiles; counts as memory of the pod."""

    times: Times = Times()

    caching: bool = True
    """Reuse results of earlier runs with the same inputs."""

    choices: bool = True
    """Drop-downs in the UI; KFP before 2.16 rejects them."""

    @property
    def for_the_plan(self) -> str:
        """What the plan reads of this profile, as JSON for its environment."""
        told: dict[str, Any] = {
            "instance_types": {name: kind.model_dump() for name, kind in self.instance_types.items()},
            "node_selector": self.node_selector,
        }
        if self.shared_memory != SHARED_MEMORY:
            told["shared_memory"] = self.shared_memory
        return json.dumps(told, sort_keys=True)

    @model_validator(mode="after")
    def _volumes_do_not_clash(self) -> Profile:
        paths = [volume.mount_path.rstrip("/") for volume in self.volumes]
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"two volumes are mounted at {', '.join(sorted(twice))}")
        for held in ("checkpoints", "hub_cache"):
            if sum(held in volume.holds for volume in self.volumes) > 1:
                raise ValueError(f"two volumes hold {held}")
        if self.workspace.size:
            self._leave_room_for_the_workspace()
        return self

    def _leave_room_for_the_workspace(self) -> None:
        """Raise ValueError for a volume that KFP's driver does not mount beside a workspace."""
        for volume in self.volumes:
            if volume.mount_path.startswith(WORKSPACE):
                raise ValueError(f"{volume.mount_path} is the place of the workspace")
            if volume.claim == WORKSPACE_NAME:
                raise ValueError(f"{WORKSPACE_NAME} is the name of the workspace's volume in a pod")
            if "checkpoints" in volume.holds:
                raise ValueError("a volume and the workspace hold checkpoints")
