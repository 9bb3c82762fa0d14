"""The plan, made before a GPU is allocated: checks, digests, arithmetic, hardware, one settings value per step.

Runs in seconds on any CPU and imports neither torch nor transformers. Every error that can be detected without a GPU
must be raised here, all of them together. A parameter that is not implemented yet is rejected by `place.py`.
"""
