"""Several processes that hold one model together, and answer as one engine.

The process of the caller holds no model: it hands requests to the others, which are called ranks, and collects their
answers. Each rank sees one GPU.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from steps import errors
from steps.errors import OutOfResources, Problem, StepError
from steps.generation.requests import Completion, Engine, Request
from steps.params.settings import GenerateSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"
Answer = tuple[int, Completion]


class Rank(Engine, Protocol):
    """The engine of one rank."""

    def rest(self) -> None:
        """Take part in what the other ranks compute, until all of them have their answers."""


class RankGroup:
    """An engine of several processes.

    With `shared` each of them answers its own part of the requests; otherwise all compute every answer together, and
    the first one tells it.
    """

    def __init__(
        self, name: str, module: str, count: int, shared: bool, settings: GenerateSettings, model: Path,
        adapter: Path | None,
    ):  # fmt: skip
        """`module` has a function open_rank(settings, model, adapter) -> Rank, called within the group."""
        self.name, self._module, self._count, self._shared = name, module, count, shared
        self._job = (settings.model_dump(mode="json"), str(model), str(adapter) if adapter else None)
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self.versions: dict[str, str] = {}
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> RankGroup:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, which frees the model."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yield answers as they come. Raises the first error of a rank, OutOfResources for one that was killed."""
        if not self._pipes:
            self._start()
        places = [list(range(rank, len(requests), self._count)) if self._shared else list(range(len(requests)))
                  for rank in range(self._count)]  # fmt: skip
        ended = False
        try:
            for rank, (pipe, mine) in enumerate(zip(self._pipes, places, strict=True)):
                try:
                    pipe.send([requests[place] for place in mine])
                except OSError:
                    raise _lost(self._processes[rank], rank) from None
            for rank, (index, completion) in self._told():
                if self._shared or rank == 0:
                    yield places[rank][index], completion
            ended = True
        finally:
            if not ended:  # they would go on, and answer the next requests with these
                self._stop()

    def _told(self) -> Iterator[tuple[int, Answer]]:
        """Yield what ranks tell, until each has ended its part."""
        at_work = dict(zip(self._pipes, range(self._count), strict=True))
        while at_work:
            for pipe in wait(list(at_work)):
                assert isinstance(pipe, Connection)
                rank = at_work[pipe]
                kind, value = _received(pipe, self._processes[rank], rank)
                if kind == "error":
                    raise value
                if kind == "done":
                    del at_work[pipe]
                else:
                    yield rank, value

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        meeting = Path(tempfile.mkdtemp(dir=self._folder)) / "meeting"
        devices = _devices(self._count)
        try:
            for rank in range(self._count):
                ours, theirs = context.Pipe()
                arguments = (theirs, self._module, rank, self._count, str(meeting), devices[rank], self._job)
                process = context.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
            for _, versions in self._told():
                self.versions = dict(versions)  # type: ignore[arg-type]
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []


def _devices(count: int) -> list[str]:
    """Return the GPU of each rank; empty texts without GPUs."""
    import torch

    if not torch.cuda.is_available():
        return [""] * count
    told = os.environ.get(VISIBLE)
    names = told.split(",") if told else [str(number) for number in range(torch.cuda.device_count())]
    return names[:count]


def _received(pipe: Connection, process: Any, rank: int) -> tuple[str, Any]:
    try:
        kind, value = pipe.recv()
    except (EOFError, OSError):
        return "error", _lost(process, rank)
    if kind == "error":
        name, problems, told = value
        value = getattr(errors, name)(problems) if name else RuntimeError(f"process {rank} failed:\n{told}")
    return kind, value


def _lost(process: Any, rank: int) -> OutOfResources:
    process.join()
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    return OutOfResources(
        Problem("GEN-E0542", f"process {rank}", f"ended from outside ({how})", "the end of its rows",
                "give generate more memory", why="the usual reason is a lack of memory")
    )  # fmt: skip


def work(pipe: Any, module: str, rank: int, count: int, meeting: str, device: str, job: tuple[Any, ...]) -> None:
    """Be one rank: open the model with the others, then answer what is asked until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the caller's process decides
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
    if device:
        os.environ[VISIBLE] = device
    try:
        engine = _opened(module, rank, count, meeting, job)
        pipe.send(("versions", engine.versions))
        pipe.send(("done", None))
        while True:
            for answer in engine.complete(pipe.recv()):
                pipe.send(("answer", answer))
            engine.rest()
            pipe.send(("done", None))
    except (EOFError, BrokenPipeError):
        pass
    except BaseException as error:
        known = type(error).__name__ if isinstance(error, StepError) else ""
        problems = error.problems if isinstance(error, StepError) else []
        pipe.send(("error", (known, problems, traceback.format_exc())))
    pipe.close()
    os._exit(0)  # a group that lost a member would be waited for


def _opened(module: str, rank: int, count: int, meeting: str, job: tuple[Any, ...]) -> Rank:
    import torch

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=count)
    settings, model, adapter = job
    chosen = GenerateSettings.model_validate(settings)
    opened: Rank = importlib.import_module(module).open_rank(chosen, Path(model), Path(adapter) if adapter else None)
    return opened
