"""Answers from an OpenAI-compatible server, by the official client.

The key comes from the environment (OPENAI_API_KEY). Conversations are sent as messages, so the server's chat template
is used; plain texts are sent as they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, StepError, UserError, shown
from steps.generation.endpoint_messages import Server, Unreadable, arguments, completion
from steps.generation.endpoint_waiting import Pace, told
from steps.generation.engine_rules import own_decoding, refuse_unfit
from steps.generation.requests import Completion, Request
from steps.params.settings import GenerateSettings

PACKAGE = "openai"
KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # the client wants one; servers without keys ignore it
OF_VLLM = "vllm"  # owner of the models that vLLM lists
CONNECT_SECONDS = 10.0

Answer = tuple[int, Completion]


def missing(settings: GenerateSettings) -> str:
    """Say what this machine lacks."""
    return "" if find_spec(PACKAGE) else f"the package {PACKAGE}"


def open_engine(settings: GenerateSettings, model: Path | None = None, adapter: Path | None = None) -> EndpointEngine:
    """Ask the server for its models; raises UserError for a model that it does not name, Outage without an answer."""
    if found := missing(settings):
        raise UserError(Problem("GEN-E0242", "inference_type", "endpoint", "a machine with what it needs",
                                f"install {found}", why=f"this one lacks {found}"))  # fmt: skip
    refuse_unfit(settings)
    return EndpointEngine(settings)


class EndpointEngine:
    """A server that answers several requests at a time."""

    name = "endpoint"

    def __init__(self, settings: GenerateSettings):
        self.engine, self.decoding = settings.engine, own_decoding(settings.decoding)[0]
        self.pace = Pace(self.engine.endpoint_url, self.engine.endpoint_requests_per_minute)
        self.versions = {PACKAGE: version(PACKAGE)}
        self.server = asyncio.run(self._look())

    def __enter__(self) -> EndpointEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: connections are closed after each call of `complete`."""

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yield answers as they come, in any order. Raises as the protocol of engines says."""
        finished: queue.Queue[Answer | BaseException | None] = queue.Queue()
        sending = _Sending(self, requests, finished)
        try:
            while (found := finished.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            sending.stop()

    def client(self) -> Any:
        """Return a new client, for one event loop; it tries once, because `Pace` repeats."""
        import openai

        seconds = float(self.engine.endpoint_timeout_seconds)
        timeout = openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        key = os.environ.get(KEY) or NO_KEY
        return openai.AsyncOpenAI(base_url=self.engine.endpoint_url, api_key=key, max_retries=0, timeout=timeout)

    async def _look(self) -> Server:
        """Find the name of the model, and whether the server is vLLM."""
        async with self.client() as client:

            async def listed() -> list[dict[str, Any]]:
                answer = _json(await client.models.with_raw_response.list())
                try:
                    return [{**one, "id": str(one["id"])} for one in answer["data"]]
                except (KeyError, TypeError) as error:
                    raise Unreadable(f"no list of models in {shown(answer)}") from error

            try:
                models = await self.pace.answered(listed, "list of models")
            except UserError as error:
                # Some servers do not list their models.
                if "said 404" not in str(error) or not self.engine.endpoint_model:
                    raise
                models = []
        return self._chosen(models)

    def _chosen(self, models: list[dict[str, Any]]) -> Server:
        wanted = self.engine.endpoint_model
        fitting = [one for one in models if not wanted or one["id"] == wanted]
        if not wanted and len(fitting) != 1:
            names = ", ".join(one["id"] for one in models) or "no model"
            raise UserError(
                Problem("GEN-E0243", "endpoint_model", f"nothing, and {told(names)} at {told(self.pace.url)}",
                        "the name of one model",
                        f"set endpoint_model to {'one of them' if models else 'the name that the server knows'}")
            )  # fmt: skip
        if not fitting:  # such as a gateway that lists a part of its models: the first answer will tell
            return Server(wanted)
        longest = fitting[0].get("max_model_len")
        is_vllm = fitting[0].get("owned_by") == OF_VLLM
        return Server(fitting[0]["id"], is_vllm, longest if type(longest) is int and longest > 1 else None)

    async def answer(self, client: Any, request: Request) -> Completion:
        """Get one answer, with as many tries as it takes."""
        given = arguments(request, self.decoding, self.server)
        asked = client.chat.completions if request.messages else client.completions

        async def tried() -> Completion:
            answer = await asked.with_raw_response.create(**given)
            return completion(_json(answer), self.decoding, self.server)

        return await self.pace.answered(tried, f"row {request.row}")


class _Sending:
    """A thread with the event loop in which requests are sent; results go into a queue, None after the last."""

    def __init__(self, engine: EndpointEngine, requests: Sequence[Request], finished: queue.Queue[Any]):
        self._engine, self._requests, self._finished = engine, requests, finished
        self._loop = asyncio.new_event_loop()
        self._all: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel what is under way, and wait for its end."""
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()
        self._loop.close()

    def _cancel(self) -> None:
        if self._all is not None:
            self._all.cancel()

    def _run(self) -> None:
        try:
            self._all = self._loop.create_task(self._send())
            self._loop.run_until_complete(self._all)
            self._finished.put(None)
        except asyncio.CancelledError:
            self._finished.put(None)
        except BaseExceptionGroup as group:
            self._finished.put(_first(group))
        except BaseException as error:
            self._finished.put(error)

    async def _send(self) -> None:
        todo = iter(enumerate(self._requests))
        async with self._engine.client() as client:

            async def work() -> None:
                for index, request in todo:
                    self._finished.put((index, await self._engine.answer(client, request)))

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._engine.engine.endpoint_concurrency, len(self._requests))):
                    group.create_task(work())


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error of a group, our own before others."""
    errors = [_first(one) if isinstance(one, BaseExceptionGroup) else one for one in group.exceptions]
    return next((one for one in errors if isinstance(one, StepError) and not isinstance(one, Outage)), errors[0])


def _json(answer: Any) -> Any:
    """Return the JSON of a raw answer. Raises Unreadable for anything else."""
    try:
        return json.loads(answer.text)
    except ValueError as error:
        raise Unreadable(f"no JSON: {shown(answer.text)}") from error
