"""Training: one file per trainer in `trainers/`, each with one `build(run)`.

Trainers share an interface, not a parent class; functions that several of them need are here:

    step.py         the step: find checkpoints, train, check the result, write the artifact
    loading.py      load model and tokenizer, and make the adapter configuration
    continuing.py   load the adapter of an imported model to continue its training
    adapters.py     convert parameters to PEFT's configuration, for every kind of adapter
    quantising.py   a frozen base in 8 or 4 bits
    inference.py    end tokens, padding and generation settings that are saved with the result
    new_tokens.py   embeddings of new tokens
    heads.py        models with a head for the task
    arguments.py    convert parameters to Hugging Face training arguments
    checkpoints.py  folders of checkpoints, and which checkpoint is resumed
    packages.py     optional packages
    deepspeed.py    setup of DeepSpeed before the model is loaded, and gathering of partitioned weights
    batch_size.py   halve the batch size until the batch fits into memory
    curves.py       the curve of a training, in a file
    pruning.py      the callback that writes the curve and ends a trial of a sweep that is worse than others
    watching.py     callbacks: progress, NaN, preemption, checkpoints by time, early stopping, history

To add a trainer: a file in `trainers/` with a `build(run)`, named by the record of a model kind or a method of learning
(`steps/kinds/`), and a test.
"""
