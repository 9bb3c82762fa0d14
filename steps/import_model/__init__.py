"""Import a model from any source: Hub id, PyTorch folder, MLflow model, any fsspec URI.

Writes two artifacts: `model` (weights, config, tokenizer) and `tokenizer` (tokenizer and config only, so that data
can be prepared without copying weights). An adapter given with the model is merged, or stored in the model's folder
adapter/ if its training is continued; a separate reference model for preference training is stored in reference/. The
requirements on a model folder are in `steps/models/layout.py`; `new_tokens.py` adds new tokens and their embeddings.
"""
