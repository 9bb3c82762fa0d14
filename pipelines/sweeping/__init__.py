"""Sweeps: many trainings of one pipeline that differ in some parameters.

    file.py       sweep.yaml
    described.py  a whole sweep, as the user described it
    space.py      which values each parameter takes, checked by the pipeline's own parameters
    dimension.py  the values of one parameter: a list, or a range of numbers
    values.py     values of Python and numpy as JSON has them
    search.py     the parameters of the next trial: a grid, a list, or one of Optuna's samplers

To offer another of Optuna's samplers, add its name to SAMPLERS (`described.py`) and make it in `search.py`.
"""
