"""Writes to MLflow that collide with those of another process are repeated; other errors are not."""

import pytest

from steps.tracking import connecting
from steps.tracking.connecting import Repeating

COLLISIONS = (
    "BAD_REQUEST: (sqlite3.IntegrityError) UNIQUE constraint failed: params.key, params.run_uuid",
    '(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "tag_pk"',
    "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'a-1' for key 'tags.PRIMARY'\")",
)


class Store:
    """A client whose first calls fail."""

    name = "a store"

    def __init__(self, errors: list[Exception]):
        self.errors, self.calls = errors, []

    def set_tag(self, *given: object, **named: object) -> str:
        self.calls.append((given, named))
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def error():
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_ALREADY_EXISTS

    codes = {"bad": BAD_REQUEST, "exists": RESOURCE_ALREADY_EXISTS}
    return lambda text, code="bad": MlflowException(text, error_code=codes[code])


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(connecting.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("text", COLLISIONS)
def test_a_write_beside_that_of_another_process_is_repeated_as_it_was(text, error, waits):
    store = Store([error(text), error(text)])
    assert Repeating(store).set_tag("1", key="x") == "done"
    assert store.calls == [(("1",), {"key": "x"})] * 3
    assert len(waits) == 2
    assert max(waits) <= connecting.LONGEST_WAIT
    assert Repeating(store).name == "a store"


def test_one_that_never_ends_is_told(error):
    store = Store([error(COLLISIONS[0]) for _ in range(99)])
    with pytest.raises(Exception, match="UNIQUE constraint"):
        Repeating(store).set_tag("1")
    assert len(store.calls) == connecting.TRIES


def test_other_errors_are_told_at_once(error):
    exists = error(f"Registered Model (name=a) already exists. Error: {COLLISIONS[0]}", "exists")
    for one in (error("no such run"), exists, ValueError(COLLISIONS[0])):
        store = Store([one])
        with pytest.raises(type(one)):
            Repeating(store).set_tag("1")
        assert len(store.calls) == 1
