"""Which trial of a sweep ends early: curves in files, and Optuna's pruners over them."""

import json
import logging
import math
import os
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from steps.outcome import failure
from steps.params.settings import Pruning
from steps.pruning import Curve, CurveFile, Curves, Pruned, decide, read_curve

NAN, INF = math.nan, math.inf


def curve(*values: float, state: str = "running", every: int = 10, metric: str = "loss") -> Curve:
    """A trial that was evaluated every ten steps."""
    points = tuple((every * count, value) for count, value in enumerate(values, start=1))
    return Curve(state, metric=metric, max_steps=100, points=points)


def done(*values: float, **more) -> Curve:
    return curve(*values, state="finished", **more)


def asked(pruner: str, startup: int = 0, warmup: int = 0, trial: int = 0) -> Pruning:
    return Pruning(sweep="s", trial=trial, pruner=pruner, startup_trials=startup, warmup_steps=warmup)


def numbered(own: Curve, *others: Curve) -> dict[int, Curve]:
    return dict(enumerate([own, *others]))


MEDIAN = {
    "worse than the median": (curve(3, 2.31), [done(2, 1.9)] * 3 + [done(2, 1), done(9, 3)], {"startup": 5},
                              "validation loss 2.31 at step 20 is worse than the median 1.90 of 5 trials"),
    "better than the median": (curve(3, 1.8), [done(2, 1.9)] * 5, {"startup": 5}, None),
    "equal to the median": (curve(3, 1.9), [done(2, 1.9)] * 5, {"startup": 5}, None),
    "it was better before": (curve(1.5, 2.5), [done(2, 1.9)] * 5, {}, None),
    "too few have finished": (curve(3, 9), [done(2, 1.9)] * 4, {"startup": 5}, None),
    "pruned and running trials are not finished": (
        curve(3, 9), [done(2, 1)] * 4 + [curve(1, 1), curve(1, 1, state="pruned")], {"startup": 5}, None),
    "finished ones that did not get as far": (curve(3, 9), [done(2)] * 5, {"startup": 5}, None),
    "some that did not get as far": (curve(3, 9), [done(2)] * 5 + [done(2, 1)] * 4, {"startup": 5}, None),
    "nobody else": (curve(3, 9), [], {}, None),
    "no evaluation": (curve(), [done(2, 1.9)] * 5, {}, None),
    "one other is enough where none is asked for": (
        curve(3), [done(2)], {}, "validation loss 3.00 at step 10 is worse than the median 2.00 of 1 trial"),
    "other steps, as many evaluations": (
        curve(3, 9, every=7), [done(2, 1.9)] * 5, {},
        "validation loss 9.00 at step 14 is worse than the median 1.90 of 5 trials"),
    "warmup": (curve(3, 9), [done(2, 1.9)] * 5, {"warmup": 21}, None),
    "the end of the warmup": (curve(3, 9), [done(2, 1.9)] * 5, {"warmup": 20},
                              "validation loss 9.00 at step 20 is worse than the median 1.90 of 5 trials"),
    "never a number": (curve(NAN, NAN), [done(2, 1.9)] * 5, {},
                       "validation loss at step 20 is not a finite number"),
    "no number any more": (curve(1, NAN), [done(2, 1.9)] * 5, {}, None),
    "others without numbers do not count": (
        curve(3, 2.31), [done(2, 1.9)] * 3 + [done(2, NAN)] * 2, {"startup": 5},
        "validation loss 2.31 at step 20 is worse than the median 1.90 of 3 trials"),
    "only others without numbers": (curve(3, 2.31), [done(NAN, NAN)] * 5, {}, None),
    "numbers that differ late": (curve(1.90007), [done(1.90004)] * 5, {},
                                 "validation loss 1.9001 at step 10 is worse than the median 1.9000 of 5 trials"),
    "small numbers": (curve(0.0004), [done(0.0001)] * 5, {},
                      "validation loss 0.0004 at step 10 is worse than the median 0.0001 of 5 trials"),
}  # fmt: skip
HALVING = {
    "the worse of two": (curve(3), [curve(2)], {}, "validation loss 3.00 at step 10 is not the best of 2 trials after "
                         "1 evaluation"),
    "the better of two": (curve(2), [curve(3)], {}, None),
    "the worse half of four": (
        curve(3), [curve(1), curve(2), curve(4)], {},
        "validation loss 3.00 at step 10 is not among the best 2 of 4 trials after 1 evaluation"),
    "the better half of four": (curve(2), [curve(1), curve(3), curve(4)], {}, None),
    "pruned, finished and running trials are compared": (
        curve(3), [done(1, 1), curve(2, state="pruned"), curve(4)], {},
        "validation loss 3.00 at step 10 is not among the best 2 of 4 trials after 1 evaluation"),
    "at the second rung": (curve(2, 3), [curve(1, 1), curve(9, state="pruned")], {},
                           "validation loss 3.00 at step 20 is not the best of 2 trials after 2 evaluations"),
    "between two rungs": (curve(2, 2, 9), [curve(1, 1, 1), curve(3, 3, 1), curve(3, 3, 1)], {}, None),
    "at the third rung": (curve(2, 2, 2, 9), [curve(1, 1, 1, 1), curve(3, 3, 1, 1), curve(3, 3, 1, 1)], {},
                          "validation loss 9.00 at step 40 is not among the best 2 of 4 trials after 4 evaluations"),
    "too few got as far": (curve(9, 9), [curve(1, 1)] * 4 + [curve(1)] * 3, {"startup": 5}, None),
    "enough got as far": (curve(9, 9), [curve(1, 1)] * 5, {"startup": 5},
                          "validation loss 9.00 at step 20 is not among the best 3 of 6 trials after 2 evaluations"),
    "nobody else": (curve(9, 9), [], {}, None),
    "warmup": (curve(9, 9), [curve(1, 1)] * 5, {"warmup": 21}, None),
    "the end of the warmup is the first rung": (
        curve(9, 9, 9), [curve(1, 1, 1)] * 5, {"warmup": 30},
        "validation loss 9.00 at step 30 is not among the best 3 of 6 trials after 3 evaluations"),
    "no number": (curve(NAN), [curve(1)] * 5, {}, "validation loss at step 10 is not a finite number"),
    "others without numbers": (curve(9), [curve(NAN)] * 5, {}, None),
}  # fmt: skip
CASES = [(pruner, name) for pruner, cases in (("median", MEDIAN), ("successive_halving", HALVING)) for name in cases]


@pytest.mark.parametrize(("pruner", "name"), CASES)
def test_which_trial_ends_and_why(pruner, name):
    own, others, settings, expected = (MEDIAN if pruner == "median" else HALVING)[name]
    assert decide(asked(pruner, **settings), numbered(own, *others), higher_is_better=False) == expected


def negative(one: Curve) -> Curve:
    return Curve(one.state, one.training, one.metric, one.max_steps, tuple((s, -v) for s, v in one.points))


@pytest.mark.parametrize(("pruner", "name"), CASES)
def test_the_same_trial_ends_where_higher_is_better(pruner, name):
    own, others, settings, expected = (MEDIAN if pruner == "median" else HALVING)[name]
    curves = numbered(negative(own), *map(negative, others))
    assert bool(decide(asked(pruner, **settings), curves, higher_is_better=True)) == bool(expected)


@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
def test_the_number_of_a_trial_does_not_matter(pruner):
    curves = {3: curve(1), 5: done(2), 7: curve(9), 11: done(3), 12: curve(4)}
    ended = [n for n in curves if decide(asked(pruner, trial=n), curves, higher_is_better=False)]
    assert ended == [7, 11, 12]
    assert decide(asked(pruner, trial=1), curves, higher_is_better=False) is None


def test_the_answer_is_optunas_own_for_random_trials_one_after_another():
    """Optuna's own loop, with its own storage, names the same trials."""
    import random

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = random.Random(1)
    pruners = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=3, n_min_trials=3),
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    }
    for name, pruner in pruners.items():
        study = optuna.create_study(direction="minimize", pruner=pruner)
        curves: dict[int, Curve] = {}
        ended = []
        for number in range(40):
            values = [drawn.random() / count for count in range(1, 9)]
            trial = study.ask()
            for count, value in enumerate(values, start=1):
                trial.report(value, count)
                curves[number] = curve(*values[:count])
                startup = 3 if name == "median" else 0
                ours = decide(asked(name, startup, trial=number), curves, higher_is_better=False)
                assert bool(ours) == trial.should_prune()
                if ours:
                    ended.append(number)
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    curves[number] = curve(*values[:count], state="pruned")
                    break
            else:
                study.tell(trial, values[-1])
                curves[number] = done(*values)
        assert 5 < len(ended) < 40


def test_optuna_logs_and_warns_nothing_and_keeps_its_level(capfd, recwarn):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    decide(asked("median"), numbered(curve(3, NAN), *[done(NAN, NAN)] * 5), higher_is_better=False)
    decide(asked("successive_halving"), numbered(curve(3, NAN), *[done(NAN, NAN)] * 5), higher_is_better=False)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    told = capfd.readouterr()
    assert (told.out, told.err, [str(one.message) for one in recwarn]) == ("", "", [])


def test_optuna_is_loaded_only_to_decide():
    code = (
        "import sys, steps.pruning, steps.running; print([n for n in ('optuna', 'torch', 'numpy') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "CI": "true"})
    assert run.stdout.strip() == "[]", run.stderr


def test_a_curve_is_read_as_it_was_written(tmp_path):
    file = CurveFile(tmp_path / "new/curves/3.jsonl")
    file.begin("abc", "f1_macro", 100, {10: 0.5})
    file.loss(15, 100, 2.5)
    file.value(20, 100, 0.75)
    assert read_curve(file.path) == Curve("running", "abc", "f1_macro", 100, ((10, 0.5), (20, 0.75)), ((15, 2.5),))
    file.finish()
    file.finish()
    assert read_curve(file.path).state == "finished"
    assert file.path.read_text().count("finished") == 1
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert lines[1:] == [
        {"step": 10, "max_steps": 100, "value": 0.5}, {"step": 15, "max_steps": 100, "loss": 2.5},
        {"step": 20, "max_steps": 100, "value": 0.75}, {"state": "finished"},
    ]  # fmt: skip


def test_a_mark_of_pruning_says_when_and_why(tmp_path):
    file = CurveFile(tmp_path / "3.jsonl")
    file.begin("abc", "loss", 100)
    file.value(20, 100, INF)
    file.prune(Pruned(20, INF, "validation loss at step 20 is not a finite number"))
    found = read_curve(file.path)
    assert (found.state, found.points[0][0], math.isnan(found.points[0][1])) == ("pruned", 20, True)
    assert (found.pruned.step, found.pruned.reason) == (20, "validation loss at step 20 is not a finite number")
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", file.path.read_text()))


def test_a_training_that_begins_again_writes_no_step_twice(tmp_path):
    file = CurveFile(tmp_path / "3.jsonl")
    file.begin("abc", "loss", 100)
    for step in (10, 20, 30):
        file.value(step, 100, 1 / step)
    file.prune(Pruned(30, 1, "why"))
    file.begin("abc", "loss", 100, {10: 0.1})
    file.value(20, 100, 0.2)
    assert read_curve(file.path).points == ((10, 0.1), (20, 0.2))
    assert (read_curve(file.path).state, read_curve(file.path).pruned) == ("running", None)


HEAD = b'{"state": "running", "training": "abc", "metric": "loss", "max_steps": 100}\n'
WHOLE = HEAD + b'{"step": 10, "max_steps": 100, "value": 2.0}\n'
DAMAGED = {
    "a line that a kill cut off": (WHOLE + b'{"step": 20, "max_st', ((10, 2.0),), "running"),
    "a line without its end": (WHOLE + b'{"step": 20, "value": 1.5}', ((10, 2.0), (20, 1.5)), "running"),
    "a mark that a kill cut off": (WHOLE + b'{"state": "prun', ((10, 2.0),), "running"),
    "nothing": (b"", (), "running"),
    "no text": (WHOLE + b"\xff\xfe\x00\n\x00\x00\n", ((10, 2.0),), "running"),
    "JSON of another kind": (WHOLE + b'3\nnull\n[1]\n"a"\n{}\n{"step": "x", "value": 1}\n{"state": 3}\n',
                             ((10, 2.0),), "running"),
    "the same step twice": (WHOLE + b'{"step": 10, "value": 1.0}\n', ((10, 1.0),), "running"),
    "steps in another order": (WHOLE + b'{"step": 5, "value": 1.0}\n', ((5, 1.0), (10, 2.0)), "running"),
    "a value that is no number": (WHOLE + b'{"step": 20, "value": "x"}\n', ((10, 2.0), (20, NAN)), "running"),
    "a mark without a reason": (WHOLE + b'{"state": "pruned"}\n', ((10, 2.0),), "pruned"),
    "no first line": (WHOLE.removeprefix(HEAD), ((10, 2.0),), "running"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_of_others_are_read_as_far_as_they_go(tmp_path, name):
    content, points, state = DAMAGED[name]
    curves = Curves(tmp_path)
    curves.file(1).write_bytes(content)
    CurveFile(curves.file(0)).begin("abc", "loss", 100, {10: 1.0})
    for other in ("x.jsonl", ".2.jsonl.tmp", "-1.jsonl", "3.txt"):
        (tmp_path / other).write_bytes(WHOLE)
    (tmp_path / "4.jsonl").mkdir()
    found = curves.read()
    assert list(found) == [0, 1]
    assert str(found[1].points) == str(points)  # NaN does not equal itself
    assert found[1].state == state
    for pruner in ("median", "successive_halving"):
        decide(asked(pruner), found, higher_is_better=False)
        decide(asked(pruner, trial=1), found, higher_is_better=False)


def test_no_folder_is_no_curve(tmp_path):
    assert Curves(tmp_path / "none").read() == {}
    assert read_curve(tmp_path / "none/1.jsonl") is None


def test_a_kill_at_any_byte_loses_at_most_the_last_line(tmp_path):
    file = CurveFile(tmp_path / "1.jsonl")
    file.begin("abc", "loss", 100)
    for step in range(1, 6):
        file.value(step, 100, step / 4)
    whole = file.path.read_bytes()
    for length in range(len(whole) + 1):
        file.path.write_bytes(whole[:length])
        ends = whole[: length + 1].count(b"\n")  # a last line is complete without its line feed as well
        assert len(read_curve(file.path).points) == max(0, ends - 1)


def test_progress_that_cannot_be_written_is_logged_and_a_curve_that_cannot_is_an_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    caplog.set_level(logging.WARNING, "finetune")
    shown = CurveFile(tmp_path / "file/1.jsonl", needed=False)
    shown.begin("abc", "loss", 100)
    shown.value(1, 100, 1.0)
    shown.finish()
    assert "the progress cannot be written" in caplog.text
    assert caplog.text.count("the progress cannot be written") == 1
    with pytest.raises(OSError):
        CurveFile(tmp_path / "file/1.jsonl").begin("abc", "loss", 100)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../a", "a b", "/a", "a\n"])
def test_a_sweep_is_the_name_of_a_folder(name):
    with pytest.raises(ValidationError):
        Pruning(sweep=name, trial=0)


@pytest.mark.parametrize("name", ["a", "rates-2026.11.29", "3f2a_b"])
def test_other_names_are_accepted(name):
    assert Pruning(sweep=name, trial=0).sweep == name


def test_a_pruned_trial_is_not_reported_as_a_bug(capsys):
    reason = "validation loss 2.31 at step 20 is worse than the median 1.90 of 5 trials"
    error = failure(Pruned(20, 2.31, reason), "finetune")
    assert error.exit_code == 2
    assert reason in str(error)
    assert "Traceback" not in capsys.readouterr().err


def test_it_takes_a_moment_to_decide_among_many_trials():
    import time

    others = [done(*[1 / (n + step + 1) for step in range(20)]) for n in range(100)]
    decide(asked("median"), numbered(curve(1)), higher_is_better=False)  # loads Optuna
    for pruner in ("median", "successive_halving"):
        started = time.monotonic()
        decide(asked(pruner), numbered(curve(*[2.0] * 20), *others), higher_is_better=False)
        assert time.monotonic() - started < 20
