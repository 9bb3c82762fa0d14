"""A stand-in for `ray start` (ray 2.60.0) and for what verl asks Ray: which GPUs the nodes of the cluster have.

`installed(folder)` writes a package `ray`, of which `python -m ray.scripts.scripts start …` runs this file. It does as
Ray (read from its source, and tried with it): takes the same options, refuses those of the head on other nodes, lets
a node join the head at --address, prints the line that tells so, goes on with --block until SIGTERM (and ends with 1),
ends where the head has gone, and keeps out whoever has another token. What it does not: run anything.

RAY_STAND_IN="what:head or worker": refuse (ends before it has started), die (ends later), slow (never starts).
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

ASKED = "RAY_STAND_IN"
MAIN = "import sys\nsys.path.insert(0, {tests!r})\nfrom ray_stand_in import main\nmain()\n"
HEAD_ONLY = ("port", "include_dashboard")  # scripts.py: "should only be specified when starting head node"


def installed(folder: Path) -> None:
    """Write the package below `folder`."""
    package = folder / "ray" / "scripts"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "scripts.py").write_text(MAIN.format(tests=str(Path(__file__).parent)), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["start"])
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--address")
    for name in ("port", "num-gpus", "num-cpus", "object-store-memory"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--include-dashboard", type=lambda text: {"true": True, "false": False}[text])
    for name in ("disable-usage-stats", "block"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    assert given.block
    assert given.disable_usage_stats
    assert os.environ["RAY_AUTH_MODE"] == "token"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    what, _, where = os.environ.get(ASKED, "").partition(":")
    failing = what if where == ("head" if given.head else "worker") else ""
    if failing == "refuse":
        print("ValueError: Attempting to cap object store memory usage", flush=True)
        sys.exit(1)
    if failing == "slow":
        time.sleep(600)
    lead(given) if given.head else join(given)
    print("Local node IP: 127.0.0.1\n--------------------\nRay runtime started.\n--------------------", flush=True)
    time.sleep(2 if failing == "die" else 600)
    print("Some Ray subprocesses exited unexpectedly:\n  raylet [exit code=1]", flush=True)
    os._exit(1)


def lead(given) -> None:
    server = socket.create_server(("127.0.0.1", given.port))
    gpus = {0: given.num_gpus}

    def serve(connection, number):
        lines = connection.makefile("rw", encoding="utf-8")
        for line in lines:
            told = json.loads(line)
            if told["token"] != os.environ["RAY_AUTH_TOKEN"]:
                connection.close()
                return
            if "gpus" in told:
                gpus[number] = told["gpus"]
            lines.write(json.dumps(sum(gpus.values())) + "\n")
            lines.flush()
        gpus.pop(number, None)

    def accept():
        number = 0
        while True:
            connection, _ = server.accept()
            number += 1
            threading.Thread(target=serve, args=(connection, number), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def join(given) -> None:
    for name in HEAD_ONLY:
        if getattr(given, name) is not None:
            print(f"`--{name}` should only be specified when starting head node with `--head`.", flush=True)
            sys.exit(1)
    lines = asked(given.address, {"gpus": given.num_gpus})

    def until_gone():
        lines.readline()
        print("The GCS is unreachable", flush=True)
        os._exit(1)

    threading.Thread(target=until_gone, daemon=True).start()


def asked(address: str, told: dict):
    """Ask the head something and return the connection; ends where it cannot be reached, or refuses the token."""
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), 5)
    except OSError as error:
        print(f"ConnectionError: Failed to connect to Ray cluster at {address}: {error}", flush=True)
        sys.exit(1)
    connection.settimeout(None)
    lines = connection.makefile("rw", encoding="utf-8")
    lines.write(json.dumps({"token": os.environ.get("RAY_AUTH_TOKEN", ""), **told}) + "\n")
    lines.flush()
    lines.total = lines.readline()
    if not lines.total:
        print(f"ConnectionError: Failed to connect to Ray cluster at {address}", flush=True)
        sys.exit(1)
    return lines


def gpus_of_cluster() -> int:
    """Return the GPUs of all nodes, as verl sees them through Ray."""
    return int(asked(os.environ["RAY_ADDRESS"], {}).total)
