"""One process at a time uses the checkpoints of a training in an object store."""

import json
import threading
import time
from datetime import timedelta

import pytest
from stores import ROOT, objects
from waiting import LONG, wait_for

from steps.errors import Outage
from steps.sources import locks as module
from steps.sources.locks import LOCK_OBJECT, Lease
from steps.sources.object_folder import ObjectFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {
        "RENEW_SECONDS": 0.1,
        "LOOK_SECONDS": 0.05,
        "SETTLE_SECONDS": 0.1,
        "LOCK_SECONDS": 0.5,
    }.items():
        monkeypatch.setattr(module, name, seconds)


def lease(owner: str) -> Lease:
    return Lease(ObjectFolder("checkpoint_dir", ROOT), owner)


def told(memory) -> dict:
    return json.loads(objects(memory)[LOCK_OBJECT])


def age(memory, seconds: float) -> None:
    """Let the store say that the lock was written some time ago."""
    memory.store[f"/bucket/checkpoints/{LOCK_OBJECT}"].modified -= timedelta(seconds=seconds)


def killed(one: Lease) -> None:
    one._ended.set()
    one._thread.join()


def test_the_lock_says_who_has_it_is_renewed_and_goes(memory):
    one = lease("a")
    one.take()
    first = told(memory)
    assert (first["owner"], first["renewed"]) == ("a", 0)
    assert first["host"]
    wait_for(lambda: told(memory)["renewed"] > 0)
    one.release()
    assert objects(memory) == {}


def test_another_process_is_refused_while_the_first_is_active(memory):
    one = lease("a")
    one.take()
    with pytest.raises(Outage, match=r"CHECKPOINT-E0401 memory://.*a process on .* which is active") as caught:
        lease("b").take()
    assert not caught.value.transient
    assert told(memory)["owner"] == "a"
    one.release()
    assert set(objects(memory)) == set()


def test_a_lock_that_nobody_renews_is_taken_over_when_it_is_old(memory):
    one = lease("a")
    one.take()
    killed(one)
    age(memory, module.STALE_SECONDS - 1.0)
    began = time.monotonic()
    two = lease("b")
    two.take()  # also later than LOCK_SECONDS: its owner is gone
    assert time.monotonic() - began > 0.8
    assert told(memory)["owner"] == "b"
    two.release()


def test_a_wrong_clock_takes_no_lock_over(memory):
    one = lease("a")
    one.take()
    killed(one)
    text = objects(memory)[LOCK_OBJECT].replace(b'"time": "20', b'"time": "19')
    memory().pipe_file(f"/bucket/checkpoints/{LOCK_OBJECT}", text)
    waiting = threading.Thread(target=lease("b").take, daemon=True)
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()
    assert told(memory)["owner"] == "a"
    age(memory, module.STALE_SECONDS + 1)
    waiting.join(LONG)
    assert told(memory)["owner"] == "b"


def test_a_task_that_is_started_again_has_its_lock_at_once(memory):
    one = lease("/outputs/tuned")
    one.take()
    killed(one)
    two = lease("/outputs/tuned")
    two.take()
    assert told(memory)["token"] == two.token
    two.release()


def test_who_lost_the_lock_writes_no_more(memory, caplog):
    one = lease("/outputs/tuned")
    one.take()
    two = lease("/outputs/tuned")
    two.take()
    wait_for(lambda: not one.held)
    assert two.held
    one.release()
    assert told(memory)["token"] == two.token
    two.release()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_lock_is_one_of_nobody(memory, text):
    memory().pipe_file(f"/bucket/checkpoints/{LOCK_OBJECT}", text)
    age(memory, module.STALE_SECONDS + 1)
    one = lease("a")
    one.take()
    assert one.held
    one.release()


def test_only_one_of_many_has_it(memory):
    held, most, errors = [], [], []

    def work(number: int) -> None:
        one = lease(str(number))
        try:
            one.take()
        except Outage as error:
            errors.append(error)
            return
        held.append(number)
        most.append(len(held))
        time.sleep(0.02)
        held.remove(number)
        one.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert max(most) == 1
    assert len(most) + len(errors) == 8


def test_an_outage_does_not_end_the_renewals(memory):
    one = lease("a")
    one.take()
    whole = memory.cat_file
    failed = []

    def cat_file(*_, **__):
        failed.append(OSError(5, "SlowDown"))
        raise failed[-1]

    memory.cat_file = cat_file
    wait_for(lambda: len(failed) > 1)
    memory.cat_file = whole
    before = told(memory)["renewed"]
    wait_for(lambda: told(memory)["renewed"] > before)
    assert one.held
    one.release()
