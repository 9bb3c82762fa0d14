"""Creates the database of a store without a server: whole or not at all, and once."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from steps.params.registration import SQLITE
from steps.volumes import note_place

DRAFT = ".creating"  # follows the name of the database
TRIES = 4  # waits of 0.1, 0.3 and 0.7 s between them (MLflow 3.17)


def make_place(uri: str) -> None:
    """Create the database of a store without a server, and its folder, if there is none.

    MLflow creates it at the first use, in dozens of steps: two processes that begin at the same time, or one
    that is killed meanwhile, leave tables that no later process can complete (MLflow 3.17).
    """
    if not uri.startswith(SQLITE) or "?" in uri:
        return
    _try_briefly()
    database = Path(uri.removeprefix(SQLITE)).absolute()
    note_place(database)  # no error of sqlite names its file
    database.parent.mkdir(parents=True, exist_ok=True)
    if _is_there(database):
        return
    with _alone_in(database.parent):
        if not _is_there(database):
            _create(database)


def _try_briefly() -> None:
    """Let MLflow say within seconds that it cannot open a database: it tries for 100 s, as for one of a server."""
    import mlflow.store.db.utils

    mlflow.store.db.utils.MAX_RETRY_COUNT = TRIES


def _is_there(database: Path) -> bool:
    return database.exists() and (database.stat().st_size > 0 or not database.is_file())


def _create(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = database.with_name(f"{database.name}{DRAFT}")
    for left in database.parent.glob(f"{database.name}{DRAFT}*"):  # by a process that was killed; also its journal
        left.unlink()
    # As a URI: MLflow writes the folder into an SQL text, where a quote in a path would end it (MLflow 3.17).
    store = SqlAlchemyStore(f"{SQLITE}{draft}", (Path.cwd() / "mlruns").as_uri())
    store.engine.dispose()
    os.replace(draft, database)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes in this block with the same folder; the system ends the waiting after a kill."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network disk without locks
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)
