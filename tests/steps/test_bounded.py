"""Calls to services end, whatever the service does."""

import threading
import time

import pytest
from waiting import time_with

from steps.errors import Outage
from steps.faults import known
from steps.sources import bounded
from steps.sources.bounded import Bounded, NoAnswer


@pytest.fixture
def never():
    """An event that is set when the test ends, so that no thread is left behind for ever."""
    event = threading.Event()
    yield event
    event.set()


def test_a_call_gives_what_it_returns_or_raises():
    assert bounded.ended(lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        bounded.ended(lambda: {}["x"])


def test_a_call_that_does_not_end_is_an_outage(never):
    with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s") as caught:
        bounded.ended(never.wait, 0.05)
    assert isinstance(known(caught.value, "plan"), Outage)


@pytest.mark.parametrize(("step", "ends"), [(bounded.LEAST, True), (1, False)])
def test_a_transfer_goes_on_while_enough_arrives(never, monkeypatch, step, ends):
    monkeypatch.setattr(bounded, "SILENCE", 0.2)
    arrived = [0]

    def looked() -> int:
        arrived[0] += step
        return arrived[0]

    def transfer() -> str:
        never.wait(1.0)
        return "whole"

    if ends:
        assert bounded.moving(transfer, looked) == "whole"
    else:
        with pytest.raises(NoAnswer, match="fewer than 65,536 bytes arrived"):
            bounded.moving(transfer, looked)


def test_many_transfers_end_with_the_first_error_and_begin_no_more(never):
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise KeyError(number)
        never.wait(0.05)

    with pytest.raises(KeyError):
        bounded.all_of((lambda number=number: call(number) for number in range(100)), 2, lambda: 0)
    time.sleep(0.2)
    assert len(begun) < 50
    bounded.all_of((lambda number=number: begun.append(number) for number in range(100, 200)), 8, lambda: 0)
    assert sorted(begun)[-100:] == list(range(100, 200))
    bounded.all_of((), 8, lambda: 0)


def test_transfers_that_stand_still_together_are_an_outage(never, monkeypatch):
    monkeypatch.setattr(bounded, "SILENCE", 0.1)
    with pytest.raises(NoAnswer):
        bounded.all_of([never.wait, never.wait], 2, lambda: 7)


def test_a_client_is_bounded_but_for_what_has_limits_of_its_own(never, monkeypatch):
    class Client:
        name = "x"

        def ask(self, seconds: float) -> bool:
            return never.wait(seconds)

        upload = ask

    monkeypatch.setattr(bounded, "LONGEST", 0.1)
    client = Bounded(Client(), ("upload",))
    assert client.name == "x"
    assert client.ask(0.0) is False
    with pytest.raises(NoAnswer):
        client.ask(60.0)
    assert client.upload(0.3) is False
    assert not hasattr(client, "no_such_method")


@pytest.mark.parametrize(("seconds", "passes", "tries"), [(0.0, True, 3), (0.0, False, 1), (bounded.SOON + 1, True, 1)])
def test_what_fails_soon_is_tried_again_if_it_may_pass(monkeypatch, seconds, passes, tries):
    now, waited, tried = [0.0], [], []
    monkeypatch.setattr(bounded, "time", time_with(sleep=waited.append, monotonic=lambda: now[0]))

    def call() -> None:
        tried.append(now[0])
        now[0] += seconds
        raise TimeoutError

    with pytest.raises(TimeoutError):
        bounded.again(call, lambda error: passes)
    assert len(tried) == tries
    assert waited == list(bounded.WAITS[: tries - 1])


def test_limits_are_within_two_minutes_together_with_what_comes_before():
    assert bounded.LONGEST <= 75
    assert bounded.SILENCE + bounded.SILENCE / bounded.LOOKS + sum(bounded.WAITS) + bounded.SOON < 90
