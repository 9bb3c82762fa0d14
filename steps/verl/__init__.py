"""verl: reinforcement learning in an environment of its own, which this project starts as a process.

    overrides.py    overrides_of(settings, paths) → the arguments of `python -m verl.trainer.main_ppo`; OVERRIDES, the
                    table of our parameters and verl's keys
    packages.py     refuse_missing(settings) and attention(): what verl lacks where it runs

The settings are `steps.params.verl_settings.VerlSettings`; what users set is in `steps/params/verl.py`, and what their
batch sizes mean and what is refused in `steps/plan/verl.py` and docs/verl.md. Nothing here imports verl, whose
libraries (transformers, torch, numpy) are of other versions; tests compose its packaged configuration in a process of
its own.

To add a parameter: its field in `steps/params/verl.py`, its keys in OVERRIDES and its row in docs/verl.md; the tests
then set it.
"""
