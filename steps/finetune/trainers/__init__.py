"""One file per trainer; see `steps/finetune/__init__.py`."""
