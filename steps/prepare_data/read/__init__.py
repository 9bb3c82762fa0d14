"""From what the parameters name to raw rows; the front page is `steps/prepare_data/__init__.py`."""
