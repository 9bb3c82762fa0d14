"""Convert rows to tokens; see `steps/prepare_data/__init__.py`."""
