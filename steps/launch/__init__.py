"""How training is launched; so far in the step's own process only.

    one_process.py        this process, with DeepSpeed as a process group of size 1
    devices.py            whether the GPUs that were requested are there
    deepspeed_config.py   DeepSpeed configurations: the built-in ones, and a user's file, converted to current names
    deepspeed_plan.py     combines the configuration with the parameters at plan time, and checks both

To add a launcher (torchrun, a TrainJob): a file with a context manager or a function that the finetune step selects by
its settings.
"""
