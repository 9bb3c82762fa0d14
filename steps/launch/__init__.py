"""How a training is started: so far in the process of the step itself.

    one_process.py        this process, with DeepSpeed as a group of one
    deepspeed_config.py   DeepSpeed configurations: the built-in ones, and a user's file in today's form
    deepspeed_plan.py     what the plan makes of configuration and parameters, and refuses

To add a way (torchrun, a TrainJob): a file with a context or a call that the finetune step chooses by its settings.
"""
