"""What the plan hands to the later tasks; the KFP component's outputs are generated from it."""

from typing import NamedTuple


class Plan(NamedTuple):
    """What the later tasks receive: a settings value each (`steps/wire.py`), and their hardware."""

    model: str
    data: str
    training: str
    evaluation: str
    registration: str
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
    """The same for the pipeline that works on a finished adapter."""

    model: str
    adapter: str
    tool: str
    import_cpu: str
    import_memory: str
    import_node_selector: dict
