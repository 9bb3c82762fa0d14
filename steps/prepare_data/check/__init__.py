"""Check raw rows and assign them to splits; see `steps/prepare_data/__init__.py`."""
