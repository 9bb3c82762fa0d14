"""An engine that computes nothing: each answer follows from prompt and seed, with some of every kind.

ECHO_SECONDS is the time for an answer. ECHO_LOG is a file that gets a line for each request.
"""

import hashlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.generation import engines
from steps.generation.requests import Completion, Request

ODD = [
    "",
    "café 😀",
    "two\nlines",
    "- not: a list",
    "tab\tand \u2028 and \x85",
    " blank ",
    "'quotes\" and \\",
    "null",
    "007",
]


def put_in_place() -> None:
    """Let this be the engine accelerate, in this process."""
    engines.ENGINES["accelerate"] = "echo_engine"


def answer_to(request: Request, logprobs: bool = False) -> Completion:
    """Answer one request."""
    draw = random.Random(hashlib.sha256(f"{request.prompt}{request.messages}{request.seed}".encode()).digest())
    words = [
        draw.choice(ODD) if draw.random() < 0.2 else f"w{draw.randrange(1000)}" for _ in range(draw.randint(1, 12))
    ]
    tokens = tuple(draw.randrange(1000) for _ in words)
    return Completion(
        " ".join(words),
        "length" if len(words) == 12 else "stop",
        len(request.prompt.split()),
        len(words),
        tokens,
        tuple(-draw.random() for _ in words) if logprobs else None,
        truncated=draw.random() < 0.1,
    )


class Echo:
    name = "accelerate"
    versions = {"echo": "1"}  # noqa: RUF012

    def __init__(self, settings: Any):
        self.settings = settings

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        places = list(range(len(requests)))
        random.Random(len(requests)).shuffle(places)
        for place in places:
            if seconds := float(os.environ.get("ECHO_SECONDS", 0)):
                time.sleep(seconds)
            if file := os.environ.get("ECHO_LOG"):
                with open(file, "a") as stream:
                    stream.write(f"{os.getpid()} {requests[place].row} {requests[place].sample}\n")
            yield place, answer_to(requests[place], self.settings.decoding.logprobs)

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def missing(_settings: Any) -> str:
    return ""


def open_engine(settings: Any, _model: Path | None, _adapter: Path | None = None) -> Echo:
    return Echo(settings)
