"""A model from anywhere becomes a checked folder: Hub id, PyTorch folder, MLflow model, any fsspec URI.

Writes two artifacts: `model` (weights, config, tokenizer) and `tokenizer` (tokenizer and config only, so that data
can be prepared without moving weights). An adapter that the model comes with is merged, or travels in the model's
folder adapter/ for training to go on with; an own reference of preferences in reference/. What makes a folder usable is
in `steps/models/layout.py`; tokens that the model does not know yet, and rows for them in its embeddings, are added by
`new_tokens.py` on the way.
"""
