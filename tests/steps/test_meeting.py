"""Nodes that torchrun does not start know who is there, who has gone, and how the training ended."""

import socket
import threading
import time
from contextlib import suppress

import pytest
from waiting import wait_for

from steps.errors import Outage, OutOfResources, Problem, UserError
from steps.launch.meeting import Meeting, Member
from steps.launch.several_processes import Node

# What a stranger may say in place of a greeting.
ODD = (
    b'{"node": "x", "secret": "secret"}\n',
    b'{"node": 1.5, "secret": "secret"}\n',
    b'{"node": [2], "secret": "secret"}\n',
    b'{"node": true, "secret": "secret"}\n',
    b'{"node": 2, "secret": "\\ud800"}\n',
    b'{"node": 2, "secret": null}\n',
    b"[" * 100_000 + b"\n",
    b"\xff\xfe\n",
    b" " * (2 << 20),
)


def nothing():
    pass


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def nodes():
    """Node 0 that listens, and two others that are connected."""
    port = free_port()
    stops = []
    meeting = Meeting(Node(3, 0, "127.0.0.1", port), "secret", on_stop=lambda: stops.append(1))
    meeting.stops = stops
    meeting.open()
    members = [Member(Node(3, rank, "127.0.0.1", port), "secret") for rank in (1, 2)]
    for member in members:
        member.connect(10)
    wait_for(lambda: set(meeting.guests) == {1, 2})  # node 0 hears of them in threads of its own
    yield meeting, *members
    meeting.end(0)
    for member in members:
        member._connection.close()


def test_node_0_waits_until_all_have_joined(nodes):
    meeting, one, two = nodes
    one.joined()
    threading.Timer(0.3, two.joined).start()
    began = time.monotonic()
    meeting.wait_for_all(30, nothing)
    assert time.monotonic() - began >= 0.2


def test_a_node_that_is_missing_is_named(nodes):
    meeting, one, _two = nodes
    one.joined()
    wait_for(lambda: meeting.guests[1].joined)
    name = socket.gethostname()
    with pytest.raises(Outage, match=rf"NODES-E0405 3 nodes: found 2 after 0 s: node 2 \({name}\) is there and has not "
                       "joined") as caught:  # fmt: skip
        meeting.wait_for_all(0.3, nothing)
    assert caught.value.exit_code == 4
    alone = Meeting(Node(3, 0, "127.0.0.1", free_port()), "secret")
    with pytest.raises(Outage, match="found 1 after 0 s: node 1 has not come; node 2 has not come"):
        alone.wait_for_all(0, nothing)


def test_what_looks_meanwhile_may_end_the_wait(nodes):
    def stopped():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        nodes[0].wait_for_all(30, stopped)


def test_others_than_the_nodes_of_this_training_do_not_count(nodes):
    meeting, one, two = nodes
    one.joined()
    strangers = [
        Member(Node(3, 2, "127.0.0.1", meeting.node.port), "another secret"),
        Member(Node(4, 3, "127.0.0.1", meeting.node.port), "secret"),
        Member(Node(3, 1, "127.0.0.1", meeting.node.port), "secret"),  # there already
    ]
    for stranger in strangers:
        stranger.connect(10)
        stranger.joined()
        with pytest.raises(Outage, match="NODES-E0406"):
            stranger.ended(10)
    with socket.create_connection(("127.0.0.1", meeting.node.port)) as odd:
        odd.sendall(b"GET / HTTP/1.1\r\n\r\n[1]\n")
        with suppress(ConnectionResetError):
            assert odd.recv(10) == b""
    for said in ODD:
        with socket.create_connection(("127.0.0.1", meeting.node.port)) as odd:
            odd.settimeout(60)
            with suppress(ConnectionResetError, BrokenPipeError):
                odd.sendall(said)
                assert odd.recv(10) == b"", said[:60]
    with pytest.raises(Outage, match="2 after"):
        meeting.wait_for_all(0.3, nothing)
    two.joined()
    meeting.wait_for_all(30, nothing)


def test_a_node_that_has_gone_is_named_by_node_0(nodes):
    meeting, one, two = nodes
    for member in (one, two):
        member.joined()
    meeting.wait_for_all(30, nothing)
    meeting.look()
    two._connection.close()
    with pytest.raises(Outage, match=r"NODES-E0406 node 2 \(") as caught:
        meeting.look_closely()
    assert not caught.value.transient


def test_the_error_of_a_node_is_that_of_all(nodes):
    meeting, one, two = nodes
    problem = Problem("RESOURCE-E0501", "GPUs", "0", "1, as the pod requested", "use another image")
    two._connection.close()  # which follows from the first
    one.failed(OutOfResources(problem))
    wait_for(lambda: meeting.guests[1].error and meeting.guests[2].gone)
    with pytest.raises(OutOfResources, match="RESOURCE-E0501"):
        meeting.look()


def test_a_node_that_is_asked_to_stop_says_so(nodes):
    meeting, one, _ = nodes
    one.stop()
    wait_for(lambda: meeting.stops == [1])


def test_the_end_has_the_exit_code_of_the_training(nodes):
    meeting, one, two = nodes
    assert one.ended(0.1) is None
    meeting.end(143)
    assert [one.ended(10), two.ended(10)] == [143, 143]


def test_a_node_0_that_has_gone_is_named_by_the_others(nodes):
    meeting, one, _ = nodes
    meeting.guests[1].connection.close()
    with pytest.raises(Outage, match=r"NODES-E0406 node 0 \(127\.0\.0\.1\)"):
        one.ended(10)


def test_a_node_0_that_never_comes_has_a_limit():
    port = free_port()
    with pytest.raises(Outage, match=rf"NODES-E0407 node 0 at 127\.0\.0\.1:{port}: found no answer for 0 s"):
        Member(Node(2, 1, "127.0.0.1", port), "secret").connect(0)


def test_a_node_waits_for_node_0_to_listen():
    port = free_port()
    meeting = Meeting(Node(2, 0, "127.0.0.1", port), "secret")
    threading.Timer(0.5, meeting.open).start()
    member = Member(Node(2, 1, "127.0.0.1", port), "secret")
    member.connect(30)
    member.joined()
    meeting.wait_for_all(30, nothing)
    meeting.end(0)
    member._connection.close()


def test_what_fails_on_a_node_because_node_0_has_gone_is_told_as_that(nodes):
    from steps.finetune.verl_node import _cause

    meeting, one, two = nodes
    found = Outage(Problem("NODES-E0408", "Ray on node 1", "ended with code 1", "Ray until the end", "see its output"))
    user = UserError(Problem("REWARD-E0207", "rewards.py:3", "an error", "a number", "correct it"))
    threading.Timer(0.3, meeting.guests[1].connection.close).start()  # as if its process had been killed
    assert "NODES-E0406 node 0" in str(_cause(one, found))
    assert _cause(one, user) is user
    threading.Timer(0.3, meeting.end, args=(4,)).start()
    assert _cause(two, found) is found  # node 0 is there, and ended the training for it
    alone = Member(Node(2, 1, "127.0.0.1", free_port()), "secret")
    assert _cause(alone, found) is found
