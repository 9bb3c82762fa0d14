"""Read raw rows from the sources that the parameters name; see `steps/prepare_data/__init__.py`."""
