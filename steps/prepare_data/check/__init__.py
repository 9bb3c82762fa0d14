"""From raw rows to good ones, each in its place; the front page is `steps/prepare_data/__init__.py`."""
