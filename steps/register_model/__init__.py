"""A tuned model that passed the gate becomes a version in the MLflow registry, by reference: no weight is copied.

    step.py          the story
    candidate.py     what is registered, under which name, with which key and tags
    weights.py       which bytes are registered, and whether they are where the version will say
    model_card.py    what a person reads about the version
    packaging.py     the small MLflow model: reference, tokenizer, signature
    pyfunc_model.py  the code inside it; runs later, elsewhere, without this project
    served_labels.py what a classifier answers, beside it; one file for each kind of model (`served` of its record)
    registry.py      MLflow: run, version, alias; each safe to repeat

The artifact (kind `registration`) holds registration.json and model_card.md. A registration can be repeated: the same
weights with the same settings find the version that they already have. To register elsewhere too (Kubeflow Model
Registry, …): a file beside registry.py, called by step.py with the same tags.
"""
