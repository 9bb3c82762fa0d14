"""A step is tried again in a pod of KFP, where nobody can tell its outage from a mistake."""

import weakref

import pytest
from client_errors import like
from waiting import time_with

from steps import STEPS, outages, running, stopping
from steps.errors import Outage, Problem, UserError

SILENT = Outage(Problem("X-E0401", "s3://bucket/data", "TimeoutError: x", "an answer", "run again"))


@pytest.fixture
def waited(monkeypatch):
    """Be in a pod of KFP; return the seconds that were waited."""
    monkeypatch.setenv("KFP_POD_NAME", "chat-1")
    monkeypatch.setattr(outages, "in_kfp_task", lambda: True)
    seconds = []
    monkeypatch.setattr(outages, "time", time_with(sleep=seconds.append))
    return seconds


def attempts(*results):
    """Return a function that raises or returns one result after the other."""
    left = list(results)

    def attempt():
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return attempt


def test_a_step_is_tried_three_times(waited):
    assert outages.outlasting("plan", attempts(SILENT, SILENT, "done")) == "done"
    assert waited == [30, 60]
    with pytest.raises(Outage):
        outages.outlasting("plan", attempts(SILENT, SILENT, SILENT, "too late"))


def test_waiting_takes_less_than_two_minutes_in_all():
    assert sum(outages.WAITS) < 120  # as docs/operations.md says


def test_an_exception_of_a_client_is_an_outage_as_well(waited):
    assert outages.outlasting("plan", attempts(like("httpx", "ConnectError"), 1)) == 1
    assert waited == [30]


@pytest.mark.parametrize(
    "error",
    [
        UserError(SILENT.problems),
        KeyError("x"),
        OSError(28, "No space left on device"),
        Outage(SILENT.problems, transient=False),
        like("huggingface_hub.errors", "OfflineModeIsEnabled"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_raised_at_once(waited, error):
    with pytest.raises(type(error)):
        outages.outlasting("plan", attempts(error, "not reached"))
    assert waited == []


def test_a_long_try_is_repeated_only_by_a_step_that_resumes(waited, monkeypatch):
    hours = iter(range(0, 36_000, 3_600))
    monkeypatch.setattr(outages, "time", time_with(sleep=waited.append, monotonic=lambda: next(hours)))
    with pytest.raises(Outage):
        outages.outlasting("evaluate", attempts(SILENT, "not reached"))
    assert outages.outlasting("finetune", attempts(SILENT, "resumed"), resumes=True) == "resumed"
    assert waited == [30]


@pytest.mark.parametrize("step", STEPS)
def test_only_what_goes_on_where_it_was_is_repeated_however_long_it_lasted(step, monkeypatch):
    seen = []
    monkeypatch.setattr(running, "stop_when_asked", lambda: None)
    monkeypatch.setattr(running, "outlasting", lambda name, attempt, resumes, _: seen.append((name, resumes)))
    running.run_step(step)
    assert seen == [(step, step in ("finetune", "generate"))]


@pytest.mark.parametrize(("task", "pod"), [(False, True), (True, False)])
def test_outside_of_a_pod_nobody_waits(waited, monkeypatch, task, pod):
    monkeypatch.setattr(outages, "in_kfp_task", lambda: task)
    if not pod:
        monkeypatch.delenv("KFP_POD_NAME")
    with pytest.raises(Outage):
        outages.outlasting("plan", attempts(SILENT, "not reached"))
    assert waited == []


def test_a_task_that_may_write_a_termination_log_is_in_a_pod(waited, monkeypatch, tmp_path):
    monkeypatch.delenv("KFP_POD_NAME")
    monkeypatch.setattr(outages, "TERMINATION_LOG", tmp_path)
    assert outages.on_cluster()


def test_what_a_try_held_is_freed_before_the_next_one(waited):
    class Model:
        pass

    held = []

    def attempt():
        if not held:
            model = Model()
            model.itself = model
            held.append(weakref.ref(model))
            try:
                raise TimeoutError("x")
            except TimeoutError as error:
                raise Outage(SILENT.problems) from error
        return held[0]()

    assert outages.outlasting("finetune", attempt) is None


def test_nobody_waits_after_a_request_to_stop_whose_exception_was_lost(waited, monkeypatch):
    """As in a destructor, which the collection before a wait may run."""

    def attempt():
        monkeypatch.setattr(stopping, "_number", 15)
        raise SILENT

    with pytest.raises(running.Stopped):
        outages.outlasting("plan", attempt, look=running.refuse_after_stop)
    assert waited == []
