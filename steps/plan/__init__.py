"""Decides everything before a GPU is claimed: checks, digests, arithmetic, hardware, one settings value per step.

Runs in seconds on any CPU and imports neither torch nor transformers. Everything that can be known to fail must fail
here, all problems at once. A parameter whose engine is not built yet is refused by `place.py`.
"""
