"""A model from anywhere becomes a checked folder: Hub id, PyTorch folder, MLflow model, any fsspec URI.

Writes two artifacts: `model` (weights, config, tokenizer) and `tokenizer` (tokenizer and config only, so that data
can be prepared without moving weights). An adapter that the model comes with is merged, or travels in the model's
folder adapter/ for training to go on with; an own reference of preferences in reference/. What makes a folder usable is
in `steps/model_layout.py`.

    step.py        the step: bring, check, copy
    bringing.py    fetch a source as the plan saw it
    adapter.py     merge the adapter, or put it beside the weights
"""
