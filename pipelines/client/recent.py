"""The recent runs of an installation."""

from __future__ import annotations

from pipelines.client.connection import Connection, Server, connected, quiet
from pipelines.client.display import ShownList
from pipelines.client.following import ENDED, Run, read_run
from steps.errors import Problem, UserError, nearest, shown

PAGE = 100


class Runs(ShownList):
    """Runs, the newest first."""

    heads = ("run", "created", "state", "gate", "address")


def recent_runs(experiment: str = "", limit: int = 10, server: Server | Connection | None = None) -> Runs:
    """Return the newest runs, of one experiment or of all. Raises UserError for an unknown experiment."""
    there = connected(server)
    found, token = Runs(), ""
    within = _experiment(there, experiment) if experiment else None
    while len(found) < limit:
        with quiet():
            answer = there.client.list_runs(
                page_token=token,
                page_size=min(limit - len(found), PAGE),
                sort_by="created_at desc",
                experiment_id=within,
                namespace=there.namespace,
            )
        found += [_whole(there, made) for made in answer.runs or ()]
        token = answer.next_page_token or ""
        if not token:
            break
    return found


def _whole(server: Server, made: object) -> Run:
    """Return a run with its gate, which only the answer for a single run tells."""
    run = read_run(server, made)
    if run.state in ENDED and not run.gate:
        with quiet():
            return read_run(server, server.client.get_run(run.id))
    return run


def _experiment(server: Server, name: str) -> str:
    with quiet():
        answer = server.client.list_experiments(page_size=PAGE, namespace=server.namespace)
    there = {one.display_name: one.experiment_id for one in answer.experiments or ()}
    if name in there:
        return str(there[name])
    fix = nearest(name, there) or "name one of them"
    raise UserError(Problem("CLIENT-E0116", "--experiment", shown(name), f"one of {', '.join(there) or 'none'}", fix))
