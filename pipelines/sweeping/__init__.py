"""Sweeps: many trainings of one pipeline that differ in some parameters.

space.py      which values each parameter takes, checked by the pipeline's own parameters
unvaried.py   the parameters that all trials share, and why
described.py  a whole sweep, as the user described it
file.py       sweep.yaml
search.py     the parameters of the next trial: a grid, a list, or one of Optuna's samplers
"""
