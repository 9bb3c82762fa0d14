"""Register a tuned model that passed the gate as a version in the MLflow registry; weights are referenced or copied.

    step.py          the step
    package_step.py  the step package-model: the MLflow model alone, whatever the gate says
    candidate.py     the model to register: name, key and tags
    weights.py       the weights to register, and the check of their URI
    model_card.py    the model card
    packaging.py     the small MLflow model: reference, tokenizer, signature
    signatures.py    MLflow signatures, one function for each kind of output
    pyfunc_model.py  the code of the MLflow model; runs where the model is loaded, without this project
    served_*.py      predict for other kinds of models, one file for each; packaged with pyfunc_model.py
    registry.py      MLflow: run, version, alias; every call can be repeated
    provenance.py    what a version is made of, and the signature over its files (the forms: steps/signing/)
    verifying.py     finetune verify: a version or a folder compared with what was registered
    kept.py          the folders that versions need, for finetune prune

The artifact (kind `registration`) has registration.json and model_card.md. A registration can be repeated: for the same
weights and settings, the existing version is used. To support another registry (Kubeflow Model Registry, …): a file
beside registry.py, called by step.py with the same tags.
"""
