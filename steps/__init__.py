"""The steps of the pipelines: one folder per step, each with one public function.

A step takes typed settings and paths, writes files, and does not depend on Kubeflow. It runs the same way as a KFP task
(`pipelines/components.py`), from a shell (`python -m steps <step>`) and as a plain call in a test. Steps exchange data
only in the folders that `steps/artifacts.py` describes. To add a step: a folder with a `step.py` and a row in `STEPS`.
"""

STEPS = {
    "plan": "steps.plan.step:plan",
    "import-model": "steps.import_model.step:import_model",
    "check-data": "steps.prepare_data.alone:check_alone",
    "prepare-data": "steps.prepare_data.step:prepare_data",
    "finetune": "steps.finetune.step:finetune",
    "merge-adapter": "steps.merge_adapter.step:merge_adapter",
    "create-vllm-compatible-adapter": "steps.adapter_tools.vllm_ready:create_vllm_compatible_adapter",
    "replace-tokens": "steps.adapter_tools.tokens:replace_tokens",
    "check-adapter": "steps.adapter_tools.checking:check_adapter",
    "import-adapter": "steps.adapter_tools.importing:import_adapter",
    "adapter-tool": "steps.adapter_tools.tool:adapter_tool",
    "evaluate": "steps.evaluate.step:evaluate",
    "generate": "steps.generate.step:generate",
    "score": "steps.evaluate.references:score",
    "trial": "steps.sweep.trial:trial",
    "choose-trial": "steps.sweep.choosing:choose_trial",
    "sweep-as-text": "steps.plan.sweep_summary:sweep_as_text",
    "sampled-as-text": "steps.plan.sweep_summary:sampled_as_text",
    "sweep-facts": "steps.sweep.choosing:sweep_facts",
    "read-sweep": "steps.sweep.reading:read_sweep",
    "measure": "steps.evaluate.measuring:measure",
    "report": "steps.reports.step:report",
    "package-model": "steps.register_model.package_step:package_model",
    "register-model": "steps.register_model.step:register_model",
    "verify-model": "steps.register_model.verifying:verify_model",
    "send-metrics": "steps.tracking.unsent:send_metrics",
    "close-runs": "steps.tracking.continued:close_runs",
    "registered-weights": "steps.register_model.kept:registered_weights",
}

__version__ = "0.1.0"
