"""verl: reinforcement learning in an environment of its own, which this project starts as a process.

    overrides.py    overrides_of(settings, paths) → the arguments of `python -m verl.trainer.main_ppo`; OVERRIDES, the
                    table of our parameters and verl's keys
    training.py     train_by_verl(training, tracker): all of it, from a model and prepared rows to the tuned model
    data.py         prepared rows → the parquet files that verl reads
    rewards.py      the function that verl calls for each answer; verl loads this file in its own processes
    process.py      starts verl, follows it, stops it with everything that it started
    failures.py     the end of verl as one of our errors, by its exit code and its output
    metrics.py      verl's metrics while it runs, and the history over all of its starts
    checkpoints.py  which checkpoints are whole, from which a training goes on, which are kept
    shards.py       the weights of a checkpoint, joined from the parts of each GPU without running a pickle's code
    result.py       the tuned model: an adapter or whole weights, proved to differ from the base
    packages.py     refuse_missing(settings) and attention(): what verl lacks where it runs

The settings are `steps.params.verl_settings.VerlSettings`; what users set is in `steps/params/verl.py`, and what their
batch sizes mean and what is refused in `steps/plan/verl.py` and docs/verl.md. Nothing here imports verl, whose
libraries (transformers, torch, numpy) are of other versions; tests compose its packaged configuration in a process of
its own.

Tests run everything around verl with a stand-in for its trainer (tests/verl_stand_in.py), and the rewards through
verl's own reward manager and data set (tests/verl_reward_manager.py). verl itself was never trained here.

To add a way in which verl fails: its pattern in KINDS and its error in MAKERS of failures.py, a line in
tests/steps/test_verl_running.py.

To add a parameter: its field in `steps/params/verl.py`, its keys in OVERRIDES and its row in docs/verl.md; the tests
then set it.
"""
