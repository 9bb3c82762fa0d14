"""A kept trace is read only when everything that shapes it is as it was."""

import json

import pytest
from peers import KEPT, WRITE, Peer, key_of, kind_of_cpu, traces

FACTOR = 2


def helper(x: int) -> int:
    return x * FACTOR


def trained(x: int, folder=None, **more) -> list[int]:
    return [helper(x)]


def test_the_key_sees_the_function_what_it_uses_what_it_is_given_the_cpu_and_the_versions(tmp_path, monkeypatch):
    import peers

    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_bytes(b"1")
    given = (1, tmp_path / "model")
    keys = [key_of(trained, given, {"rows": [{"a": 1.5}]}), key_of(trained, given, {"rows": [{"a": 1.6}]}),
            key_of(trained, (2, tmp_path / "model"), {"rows": [{"a": 1.5}]}),
            key_of(helper, given, {"rows": [{"a": 1.5}]})]  # fmt: skip
    assert keys[0] == key_of(trained, given, {"rows": [{"a": 1.5}]})
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "FACTOR", 3)
        keys.append(key_of(trained, given, {"rows": [{"a": 1.5}]}))
    for name, changed in (("versions", {"torch": "0"}), ("cpu", "another")):
        with monkeypatch.context() as patch:
            patch.setattr(peers, name, lambda changed=changed: changed)
            keys.append(key_of(trained, given, {"rows": [{"a": 1.5}]}))
    (tmp_path / "model/weights").write_bytes(b"2")
    keys.append(key_of(trained, given, {"rows": [{"a": 1.5}]}))
    assert len(set(keys)) == len(keys) == 8
    assert key_of(trained, (1, tmp_path / "out"), {}) == key_of(trained, (1, tmp_path / "other"), {})
    with pytest.raises(TypeError, match="nothing is known"):
        key_of(trained, (object(),), {})


def test_a_trace_is_kept_read_and_made_again_when_something_changed(tmp_path, monkeypatch):
    calls = []
    file = tmp_path / "test_some.json"

    def asked(function, *given):
        calls.clear()
        traces.cache_clear()
        return Peer(file, "test_it[a]")(function, *given), len(calls)

    def train(x):
        calls.append(x)
        return [x + 0.1]

    assert asked(train, 1) == ([1.1], 1)
    monkeypatch.setenv(WRITE, "1")
    assert asked(train, 1) == ([1.1], 1)
    monkeypatch.delenv(WRITE)
    assert asked(train, 1) == ([1.1], 0)
    assert asked(train, 2) == ([2.1], 1)
    told = json.loads(file.read_text())
    told["traces"]["test_it[a]"][kind_of_cpu()]["trace"] = [7]
    file.write_text(json.dumps(told))
    assert asked(train, 1) == ([7], 0)
    monkeypatch.setenv(WRITE, "1")
    with pytest.raises(AssertionError, match="nothing changed that shapes it"):
        asked(train, 1)


def test_traces_of_several_kinds_of_cpu_are_kept_and_none_of_other_versions(tmp_path, monkeypatch):
    import peers

    file = tmp_path / "test_some.json"

    def kinds(cpu: str, **other: str) -> set[str]:
        """Keep a trace as on this CPU; give the kinds whose traces are kept."""
        with monkeypatch.context() as patch:
            patch.setenv(WRITE, "1")
            patch.setattr(peers, "cpu", lambda: cpu)
            patch.setattr(peers, "kind_of_cpu", lambda: cpu)
            patch.setattr(peers, "versions", lambda: {"torch": "1", **other})
            traces.cache_clear()
            assert Peer(file, "test_it")(trained, 3) == [6]
        return set(json.loads(file.read_text())["traces"]["test_it"])

    assert kinds("old") == {"old"}
    assert kinds("new") == {"old", "new"}
    assert kinds("new", trl="2") == {"new"}
    traces.cache_clear()


@pytest.mark.parametrize("file", sorted(KEPT.glob("*.json")), ids=lambda file: file.stem)
def test_every_trace_that_is_kept_belongs_to_a_test(file):
    (tests,) = KEPT.parent.rglob(f"{file.stem}.py")
    source = tests.read_text("utf-8")
    assert [name for name in json.loads(file.read_text())["traces"] if f"def {name.split('[')[0]}(" not in source] == []
