"""Decide everything before a GPU is requested: checks, digests, step counts, hardware, one settings value per step.

Runs in seconds on any CPU and imports neither torch nor transformers. Every error that can be detected early is
reported here, all of them together.

    step.py            the step; deciding.py: reads all inputs (seen.py), checks them and decides
    sources.py         digests of model, data and templates; row_counts.py: rows in a file
    checks.py          the list of all checks and notes
    kinds.py           whether the parameters fit the kind of model; recipes.py chooses it
    effects.py         parameters that have no effect in this run
    place.py           what depends on this version and on where it runs; tracking.py: where metrics and versions go
    lengths.py         lengths of rows; fitted.py: types inside model_args, and regular expressions of names
    tokenizer.py       whether it can be loaded; templates.py: the chat template; vocabulary.py: tokens with a role
    small_data.py      too few rows for any training
    reference.py       the reference model of preferences
    batch_rule.py      batch and learning rate from the total batch
    hardware.py        the most that tasks request; needs.py: what they need; requests.py: what they get
    instance_file.py   instance types of the user; evaluation_gpus.py: as many as a model needs
    memory.py          what a training process needs: activations.py, logits.py, sharding.py (docs/memory.md)
    verl.py            the arithmetic of verl, and what it would stop at; verl_memory.py: what its GPUs need
    strategy.py        ddp or fsdp; memory_checks.py: what does not fit; remedies.py: with what it would fit
    room.py            the memory for it; machine.py: what this machine has; shared_memory.py: /dev/shm
    arithmetic.py      rows, batches and steps; duration.py: time and cost
    interruptions.py   checkpoints by time, and how much work an interruption costs
    evaluation_options.py   evaluation_config
    settings.py        one settings value for each step; summary.py: plan.json and the text for a terminal
    adapter_tools.py   the plan of the pipeline of adapter tools
    batch_inference.py the plan of batch inference: inference_checks.py (what it refuses), inference_memory.py
    packages.py        installed packages, without importing them
"""
