"""Hardware of each task."""

from pydantic import Field

from steps.params.group import Group

SERVERLESS = "serverless"
# Environment variable of the plan's task: JSON with what it reads of a cluster's profile (`Profile.for_the_plan`).
CLUSTER = "FINETUNE_CLUSTER"
WORKSPACE = "/kfp-workspace"  # where KFP mounts a run's workspace into each task with an input that holds this path
# Requests of tasks that compute almost nothing: plan, report, register_model.
SMALL_CPU, SMALL_MEMORY = "1", "2Gi"
SHARED_MEMORY = "8Gi"  # size of /dev/shm in pods with GPUs, unless a profile names another


class ImportCompute(Group):
    """Hardware of tasks that process whole models without training; ignored by local runs."""

    compute_model_import: str = SERVERLESS
    """Node pool of import_model and adapter_tool; serverless: any node of the instance type."""

    instance_type_model_import: str = "Standard_d12_v2"
    """Largest request of import_model and adapter_tool: an instance type; or the request itself: cpu=4,memory=28Gi."""

    instance_types_file: str = ""
    """YAML or JSON file (path or URI) of more instance types: name → cpu, memory, gpus, gpu_memory, gpu_type."""

    node_pool_label: str = Field("node-pool", min_length=1)
    """Node label whose values are the node pool names of compute_*."""


class PrepareCompute(ImportCompute):
    """Hardware of tasks without a GPU; ignored by local runs."""

    compute_preprocess: str = SERVERLESS
    """Node pool of prepare_data."""

    instance_type_preprocess: str = "Standard_d12_v2"
    """Largest request of prepare_data: an instance type; or the request itself: cpu=4,memory=28Gi."""


class ComputeParams(PrepareCompute):
    """Node pools, instance types and GPUs; ignored by local runs."""

    compute_finetune: str = SERVERLESS
    """Node pool of finetune."""

    compute_model_evaluation: str = SERVERLESS
    """Node pool of evaluate."""

    instance_type_finetune: str = "Standard_nc24rs_v3"
    """Machine of finetune: an instance type, or cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=1,gpu_memory=80Gi."""

    instance_type_model_evaluation: str = "Standard_nc24rs_v3"
    """Machine of evaluate, as for instance_type_finetune."""

    number_of_gpu_to_use_finetuning: int = Field(1, ge=0)
    """GPUs per node for finetune; 0 trains on CPU."""

    num_nodes_finetune: int = Field(1, ge=1)
    """Nodes for finetune; more than one are a TrainJob of Kubeflow Trainer, and need checkpoint_dir."""

    tokens_per_second: float = Field(0.0, ge=0)
    """Measured throughput of training, for the plan's estimate of time; a finished run's report has it; 0: unknown."""

    price_per_hour: float = Field(0.0, ge=0)
    """Price of one of finetune's machines per hour in any currency, for the plan's estimate of cost; 0: unknown."""
