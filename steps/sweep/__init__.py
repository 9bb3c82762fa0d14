"""Sweeps: train and measure one trial, and choose the best of all.

trial.py       one trial: a training and its measurement on the validation rows
choosing.py    the best trial, its settings for the later tasks, and the facts of the whole sweep
result.py      what a trial leaves: state, metrics, curve
tracked.py     one MLflow run for the sweep, with those of the trials below it
reading.py     a sweep that runs on a cluster, as MLflow knows it
"""
