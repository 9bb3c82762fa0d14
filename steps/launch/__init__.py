"""How training is launched: currently only in the process of the step itself.

    one_process.py        this process, with DeepSpeed as a process group of one
    deepspeed_config.py   DeepSpeed configurations: the built-in ones, and a user's file converted to current keys
    deepspeed_plan.py     merges the configuration with the parameters, and refuses unsupported values

To add a launcher (torchrun, a TrainJob): add a file with a context manager or a function that the finetune step selects
by its settings.
"""
