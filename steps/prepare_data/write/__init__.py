"""From rows to tokens; the front page is `steps/prepare_data/__init__.py`."""
