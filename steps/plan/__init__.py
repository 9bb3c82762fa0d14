"""Decide everything before a GPU is requested: checks, digests, step counts, hardware, one settings value per step.

Runs in seconds on any CPU and imports neither torch nor transformers. Every error that can be detected early is
reported here, all of them together. `place.py` refuses parameters that are not implemented yet.
"""
