"""The requests and answers of OpenAI's protocol: from our requests to the client's arguments, from JSON to answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from steps.generation.asked import Form, end_tokens_asked, form_of
from steps.generation.decoding_rules import stop_strings_of
from steps.generation.requests import Completion, Request
from steps.params.generation import DecodingParams
from steps.params.group import default_in

SEEDS = 2**63  # servers read a seed as a signed integer of 64 bits
NUMBERS = 2**63  # what a column of whole numbers holds
LENGTHS = ("length", "max_tokens")  # finish reasons of an answer that was cut off


@dataclass(frozen=True)
class Server:
    """What is known of the server."""

    model: str
    """Name of the model there."""
    is_vllm: bool = False
    """Whether it is vLLM, which takes the parameters that the protocol lacks."""
    max_length: int | None = None
    """Longest prompt and answer together in tokens, if the server tells."""


class Unreadable(ValueError):
    """An answer that is not one of the protocol."""


def arguments(request: Request, decoding: DecodingParams, server: Server) -> dict[str, Any]:
    """Return the client's arguments for one request: of chat.completions for a conversation, else of completions.

    Parameters that the protocol lacks are in `extra_body`. A server other than vLLM gets them only if they are not at
    their defaults, because it may refuse names that it does not know.
    """
    made: dict[str, Any] = {"model": server.model, "max_tokens": _new_tokens(decoding, server)}
    if decoding.do_sample:
        made |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": request.seed % SEEDS}
    else:
        made["temperature"] = 0.0
    if stops := stop_strings_of(decoding):
        made["stop"] = stops
    extra = _extra(decoding, server)
    if request.messages:
        made["messages"] = [_message(one, number) for number, one in enumerate(request.messages)]
        if request.tools:
            made["tools"] = list(request.tools)
        if decoding.logprobs:
            made["logprobs"] = True
    else:
        made["prompt"] = request.prompt
        if decoding.logprobs:
            made["logprobs"] = 1
        if request.rendered:
            extra["add_special_tokens"] = False
    if form := form_of(decoding):
        _add_form(form, made, extra, bool(request.messages))
    if extra:
        made["extra_body"] = extra
    return made


def _new_tokens(decoding: DecodingParams, server: Server) -> int:
    """Return the longest answer; at most half of what the server takes, as in the other engines."""
    return min(decoding.max_new_tokens, server.max_length // 2) if server.max_length else decoding.max_new_tokens


def _extra(decoding: DecodingParams, server: Server) -> dict[str, Any]:
    ids, _ = end_tokens_asked(decoding)
    ours: dict[str, Any] = {
        "repetition_penalty": decoding.repetition_penalty,
        "skip_special_tokens": decoding.skip_special_tokens,
    }
    if decoding.do_sample:
        ours |= {"top_k": decoding.top_k, "min_p": decoding.min_p}
    if not server.is_vllm:
        ours = {name: value for name, value in ours.items() if value != default_in(DecodingParams, name)}
    if "top_k" in ours:
        ours["top_k"] = decoding.top_k or -1
    if decoding.min_new_tokens:
        ours["min_tokens"] = decoding.min_new_tokens
    if ids:
        ours["stop_token_ids"] = ids
    if server.is_vllm:
        ours["return_token_ids"] = True
        ours |= {"truncate_prompt_tokens": longest_prompt(decoding, server), "truncation_side": "left"}
    return ours


def longest_prompt(decoding: DecodingParams, server: Server) -> int:
    """Return how many tokens of a prompt vLLM keeps: the last ones."""
    longest = min(decoding.max_length, server.max_length or decoding.max_length)
    return max(longest - _new_tokens(decoding, server), 1)


def _add_form(form: Form, made: dict[str, Any], extra: dict[str, Any], chat: bool) -> None:
    """Ask for a form: the protocol has schemas for conversations only, and the rest is vLLM's."""
    if form.kind == "json_schema":
        named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.value, "strict": True}}
        (made if chat else extra)["response_format"] = named
    else:
        extra["structured_outputs"] = {{"regex": "regex", "choices": "choice"}[form.kind]: form.value}


def _message(message: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a message of ours in the protocol's form: a call's arguments are JSON text there, and calls have ids."""
    if not (calls := message.get("tool_calls")):
        return message
    made = []
    for index, call in enumerate(calls):
        function = call.get("function", call)
        given = function.get("arguments", {})
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        name = call.get("id") or f"call_{number}_{index}"
        made.append({"id": name, "type": "function", "function": {**function, "arguments": text}})
    return {**message, "tool_calls": made}


def completion(answer: Any, decoding: DecodingParams, server: Server) -> Completion:
    """Read the JSON of an answer, of either kind. Raises Unreadable if it has no text.

    An answer that calls tools, where the server took the calls out of the text, is the calls as a JSON list.
    """
    try:
        choice = answer["choices"][0]
        chat = "message" in choice
        text = _text(choice["message"]) if chat else choice["text"]
        usage = answer.get("usage") or {}
        logprobs = _logprobs(choice.get("logprobs"), chat) if decoding.logprobs else None
        ids = tuple(_number(one) for one in choice.get("token_ids") or ())
        reason = choice.get("finish_reason")
        prompt_tokens = _number(usage.get("prompt_tokens") or 0)
        count = _number(usage.get("completion_tokens") or len(ids) or len(logprobs or ()))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise Unreadable(f"no answer in {json.dumps(answer, default=str)[:200]}") from error
    if not isinstance(text, str):
        raise Unreadable(f"no text in {json.dumps(answer, default=str)[:200]}")
    return Completion(
        text=text,
        finish_reason="length" if reason in LENGTHS else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=count,
        token_ids=ids,
        logprobs=logprobs,
        truncated=server.is_vllm and prompt_tokens >= longest_prompt(decoding, server),
    )


def _number(value: Any) -> int:
    """Return a number of tokens, or the id of one. Raises ValueError, TypeError or OverflowError if it is none."""
    number = int(value)
    if isinstance(value, str | bool) or number != value or not 0 <= number < NUMBERS:
        raise ValueError(value)
    return number


def _text(message: dict[str, Any]) -> Any:
    calls = message.get("tool_calls")
    if not calls:
        return message.get("content") or ""
    functions = [{"name": call["function"]["name"], "arguments": _parsed(call["function"]["arguments"])}
                 for call in calls]  # fmt: skip
    return (message.get("content") or "") + json.dumps(functions, ensure_ascii=False)


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _logprobs(told: Any, chat: bool) -> tuple[float, ...] | None:
    if not told:
        return None
    values = [one["logprob"] for one in told["content"] or ()] if chat else told["token_logprobs"]
    return tuple(float(one) for one in values)
