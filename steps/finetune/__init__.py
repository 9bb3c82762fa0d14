"""Training: one file per trainer in `trainers/`, each with one `build(run)`.

Trainers share a shape, not a parent class; what several of them need stands here as ordinary functions:

    step.py         the step: find checkpoints, train, check the result, write the artifact
    loading.py      model, tokenizer and adapter configuration
    continuing.py   an adapter that the model came with
    adapters.py     our parameters as PEFT's settings, for every kind of adapter
    quantising.py   a frozen base in 8 or 4 bits
    inference.py    what the result is saved with so that it stops
    new_tokens.py   rows of tokens that the base did not know
    heads.py        models with a last layer made for the task
    arguments.py    our parameters as Hugging Face training arguments
    checkpoints.py  which folder belongs to which training; what may be resumed
    packages.py     what only some trainings need
    deepspeed.py    what DeepSpeed needs before the model is loaded, and the weights that it took apart
    batch_size.py   halved until it fits into memory
    watching.py     callbacks: progress, NaN, preemption, checkpoint manifests, history

To add a trainer: a file in `trainers/` with a `build(run)`, named by the record of a model kind or a method of learning
(`steps/kinds/`), and a test.
"""
