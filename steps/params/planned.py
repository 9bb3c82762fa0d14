"""Outputs of the plan for the later tasks; the outputs of the KFP component are generated from these types."""

from typing import NamedTuple


class Plan(NamedTuple):
    """One settings value for each later task (`steps/wire.py`), whether to register, and the tasks' hardware."""

    model: str
    data: str
    training: str
    evaluation: str
    registration: str
    registers: bool
    import_cpu: str
    import_memory: str
    import_node_selector: dict
    prepare_cpu: str
    prepare_memory: str
    prepare_node_selector: dict
    finetune_cpu: str
    finetune_memory: str
    finetune_gpu_type: str
    finetune_gpu_count: str
    finetune_node_selector: dict
    finetune_tolerations: list
    evaluate_cpu: str
    evaluate_memory: str
    evaluate_gpu_type: str
    evaluate_gpu_count: str
    evaluate_node_selector: dict
    evaluate_tolerations: list


class SweepPlan(NamedTuple):
    """The same for a sweep: settings of all trials, and the hardware that is enough for each of them."""

    models: str
    """JSON list: the settings of import_model, one value for each model that trials start from."""
    data: str
    """JSON list: the settings of prepare_data with the place of their model in `models`, one value for each."""
    lanes: list
    """Lists of texts: trials that run one after another; the lists run at the same time."""
    registers: bool
    import_cpu: str
    import_memory: str
    import_node_selector: dict
    prepare_cpu: str
    prepare_memory: str
    prepare_node_selector: dict
    finetune_cpu: str
    finetune_memory: str
    finetune_gpu_type: str
    finetune_gpu_count: str
    finetune_node_selector: dict
    finetune_tolerations: list
    evaluate_cpu: str
    evaluate_memory: str
    evaluate_gpu_type: str
    evaluate_gpu_count: str
    evaluate_node_selector: dict
    evaluate_tolerations: list


class AdapterToolsPlan(NamedTuple):
    """The same for the pipeline of adapter tools."""

    model: str
    adapter: str
    tool: str
    import_cpu: str
    import_memory: str
    import_node_selector: dict


class BatchInferencePlan(NamedTuple):
    """The same for batch inference."""

    model: str
    adapter: str
    data: str
    generation: str
    scoring: str
    import_cpu: str
    import_memory: str
    import_node_selector: dict
    prepare_cpu: str
    prepare_memory: str
    prepare_node_selector: dict
    generate_cpu: str
    generate_memory: str
    generate_gpu_type: str
    generate_gpu_count: str
    generate_node_selector: dict
    generate_tolerations: list
