"""How training is launched: in the step's own process, in several processes of a node, or on several nodes.

    this_process.py       this process: alone, with DeepSpeed as a group of size 1, or as one of a group
    several_processes.py  start a command in several processes with torchrun's agent, and learn how each ended
    children.py           what processes get from the one that starts them: its code, its requests to stop
    group.py              the processes that train together: rank, count, and how they agree
    sharding.py           fully_shard (FSDP2): which layers are gathered, and the same on CPUs
    told.py               the error of a process as text, for the process that started it
    trainjob/             several nodes: a TrainJob of Kubeflow Trainer, created and followed
    node.py               what each of these nodes runs: torchrun's agent, with the exit code of its processes
    meeting.py            nodes without torchrun: who is there, who has gone, how the training ended
    ray_node.py           Ray on a node: the head, or one that joins it; for verl
    lease.py              a sign of life from the task that follows the nodes
    devices.py            whether the GPUs that were requested are there
    deepspeed_config.py   DeepSpeed configurations: the built-in ones, and a user's file, converted to current names
    deepspeed_plan.py     combines the configuration with the parameters at plan time, and checks both

To add a launcher: a file with a function that the finetune step selects by its settings, and that ends in
`steps.finetune.training.train` in every process.
"""
