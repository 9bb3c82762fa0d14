"""Training: one file per trainer in `trainers/`, each with one `build(run)`.

Trainers share an interface, not a parent class; functions that several of them need are here:

    step.py         the step: find checkpoints, train, hand over the result
    training.py     one training, as each of its processes runs it
    result.py       check the result and write the artifact
    processes.py    train in several processes of this node; `process.py` and `worker.py` are what each of them runs
    nodes.py        train on several nodes: hand over model and rows, take the result
    by_verl.py      train with verl (`steps/verl/`); `verl_node.py` is what each of several nodes runs for it
    rows.py         which rows each process gets, and how much its loss counts
    weights.py      gather weights that are split over processes
    rewarded/       training with rewards: completions, rewards, what is saved and resumed
    rollouts.py     completions of a model in training
    loading.py      load model and tokenizer, and make the adapter configuration
    continuing.py   load the adapter of an imported model to continue its training
    adapters.py     convert parameters to PEFT's configuration, for every kind of adapter
    quantising.py   a frozen base in 8 or 4 bits
    inference.py    end tokens, padding and generation settings that are saved with the result
    new_tokens.py   embeddings of new tokens
    heads.py        models with a head for the task
    arguments.py    convert parameters to Hugging Face training arguments
    checkpoints/    checkpoints in a folder or an object store, and which one is resumed
    packages.py     optional packages
    deepspeed.py    setup of DeepSpeed before the model is loaded
    batch_size.py   halve the batch size until the batch fits into memory
    curves.py       the curve of a training, in a file
    pruning.py      the callback that writes the curve and ends a trial of a sweep that is worse than others
    watching.py     callbacks: progress, NaN, preemption, checkpoints by time, early stopping, history

To add a trainer: a file in `trainers/` with a `build(run)`, named by the record of a model kind or a method of learning
(`steps/kinds/`), and a test.
"""
