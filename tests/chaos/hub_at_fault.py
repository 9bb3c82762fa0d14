"""A stand-in for the Hub behind the fault proxy, and the trials with it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_row import Row
from fault_proxy import Fault, FaultProxy, fault_proxy
from hub_stand_in import hub_stand_in

NAME = "org/model"
WEIGHTS = random.Random(1).randbytes(150_000)
FILES = {"config.json": b'{"model_type": "llama"}', "weights.bin": WEIGHTS}
LIMIT = 3.0  # seconds, in place of bounded.LONGEST and bounded.SILENCE
OUTAGES = ("reset", "truncate", "garbage", "page", "hang", "trickle", "trickle head", "503", "loop", "stall")
CONTENT = {
    "resolve": json.dumps(sorted((name, len(content)) for name, content in FILES.items())).encode(),
    "list": json.dumps(sorted(FILES)).encode(),
}
CALLS = ("resolve", "read", "download", "list", "fetch", "read by URI")


@dataclass
class Hub:
    """The proxy before the stand-in, and the process that asks."""

    proxy: FaultProxy
    process: subprocess.Popen

    def ask(self, call: str) -> dict[str, Any]:
        """Return the code, message, content and seconds of a call."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"call": call, "name": NAME}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def hub_at_fault(folder: Path) -> Iterator[Hub]:
    """Run the stand-in, the proxy and the process."""
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    with hub_stand_in({NAME: FILES}) as stand_in, fault_proxy(stand_in) as proxy:
        environment |= {"HF_ENDPOINT": proxy.url, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1",
                        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1",
                        "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))}  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("hub_process.py")), str(LIMIT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
            yield Hub(proxy, process)
            process.kill()


def outage(hub: Hub, trial: int, draw: random.Random) -> str:
    """Every request fails, hangs or is answered by another machine: an outage when the limit is over."""
    kind, call = OUTAGES[trial % len(OUTAGES)], draw.choice(CALLS)
    hub.proxy.play(Fault(kind, seconds=0.3 if "trickle" in kind else 600))
    told = hub.ask(call)
    if told["code"] != 4:
        return f"code {told['code']} with {kind} and {call}: {told['said']}"
    return "" if told["seconds"] < 5 * LIMIT + 20 else f"{told['seconds']:.0f} s with {kind} and {call}"


def few_faults(hub: Hub, trial: int, draw: random.Random) -> str:
    """One or two requests fail, or a body is cut or changed: the right bytes, or an outage."""
    kind, call = draw.choice(["reset", "503", "truncate", "reset body", "lie", "flip"]), draw.choice(CALLS)
    first = draw.randint(1, 4) if kind not in ("lie", "flip") else 1
    hub.proxy.play(Fault(kind, "resolve" if first == 1 else "", ("GET",), first, first + draw.randint(0, 1)))
    told = hub.ask(call)
    if told["code"] == 4:
        return ""
    if told["code"] != 0 or bytes.fromhex(told["content"]) != CONTENT.get(call, WEIGHTS):
        return f"code {told['code']} or wrong bytes with {kind} and {call}: {told['said']}"
    return ""


ROWS = [
    Row(2, "the Hub is away", outage, "hub", short=3, long=60),
    Row(3, "the Hub fails now and then", few_faults, "hub", short=6, long=120),
]
