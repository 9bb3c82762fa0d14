"""How a training is started: so far in the process of the step itself.

    one_process.py   this process, with DeepSpeed as a group of one

To add a way (torchrun, a TrainJob): a file with a context or a call that the finetune step chooses by its settings.
"""
