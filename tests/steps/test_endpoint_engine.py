"""Answers from a server: what is sent, and what becomes of servers that fail, against a real server process."""

import json
import logging
import os
import signal
import threading
import time
from itertools import islice

import pytest
from answer_server import KEY, MODEL, served
from waiting import LONG

from steps.errors import Outage, UserError
from steps.generation import endpoint_waiting
from steps.generation.engines import open_engine
from steps.generation.requests import Request
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings

VLLM = [{"id": MODEL, "owned_by": "vllm", "max_model_len": 100}]
TEXTS = [Request(row, f"text {row}", seed=1000 + row) for row in range(5)]
TALK = Request(0, "", messages=({"role": "user", "content": "hello"},), seed=7)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    monkeypatch.setattr(endpoint_waiting, "PATIENCE", 3.0)
    monkeypatch.setattr(endpoint_waiting, "FIRST_PAUSE", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(url, decoding=None, **engine):
    chosen = EngineParams(inference_type="endpoint", endpoint_url=url, **engine)
    return GenerateSettings(engine=chosen, decoding=DecodingParams(**{"max_new_tokens": 8, **(decoding or {})}))


def answers(server, requests=TEXTS, decoding=None, **engine):
    with open_engine(settings(server.url, decoding, **engine), None) as opened:
        return dict(opened.complete(requests))


def sent(server, request=TEXTS[0], **decoding):
    """The body of the request for one answer."""
    answers(server, [request], decoding)
    return server.requests()[-1]["body"]


def test_every_request_is_answered_once_with_the_key_of_the_environment(tmp_path):
    with served(tmp_path) as server:
        made = answers(server)
    assert {index: one.text for index, one in made.items()} == {row: f"answer to text {row}" for row in range(5)}
    assert {(one.finish_reason, one.prompt_tokens, one.completion_tokens) for one in made.values()} == {("stop", 2, 4)}
    assert {one["key"] for one in server.requests()} == {f"Bearer {KEY}"}
    assert {one["path"] for one in server.requests()} == {"/v1/completions"}
    assert {one["body"]["prompt"] for one in server.requests()} == {one.prompt for one in TEXTS}


def test_no_request_is_an_answer_too(tmp_path):
    with served(tmp_path) as server:
        assert answers(server, []) == {}


def test_a_greedy_request_has_nothing_that_a_plain_server_would_refuse(tmp_path):
    with served(tmp_path) as server:
        assert sent(server) == {"model": MODEL, "prompt": "text 0", "max_tokens": 8, "temperature": 0.0}


def test_a_conversation_is_sent_as_messages_with_its_tools_and_calls_as_the_protocol_writes_them(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
    }
    talk = Request(0, "", messages=({"role": "user", "content": "add"}, called, {"role": "user", "content": "go on"}),
                   tools=(tool,))  # fmt: skip
    with served(tmp_path) as server:
        body = sent(server, talk, logprobs=True)
        assert server.requests()[-1]["path"] == "/v1/chat/completions"
    (call,) = body["messages"][1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert call["id"]
    assert call["type"] == "function"
    assert body["tools"] == [tool]
    assert body["logprobs"] is True
    assert body["messages"][0] == {"role": "user", "content": "add"}


# Parameter with its value → what is in the body because of it.
EFFECTS = {
    "max_new_tokens": (5, {"max_tokens": 5}),
    "stop_strings": ('["a", "b"]', {"stop": ["a", "b"]}),
    "eos_tokens": ("7,9", {"stop_token_ids": [7, 9]}),
    "min_new_tokens": (3, {"min_tokens": 3}),
    "repetition_penalty": (1.5, {"repetition_penalty": 1.5}),
    "skip_special_tokens": (True, {"skip_special_tokens": True}),
    "logprobs": (True, {"logprobs": 1}),
    "response_format": ('{"regex": "[ab]+"}', {"structured_outputs": {"regex": "[ab]+"}}),
}
DRAWN = {
    "do_sample": (True, {"temperature": 1.0, "seed": 1000}),
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.5, {"top_p": 0.5}),
    "top_k": (0, {"top_k": -1}),
    "min_p": (0.25, {"min_p": 0.25}),
}


@pytest.mark.parametrize("name", [*EFFECTS, *DRAWN])
def test_a_parameter_that_is_not_at_its_default_is_sent(tmp_path, name):
    value, wanted = {**EFFECTS, **DRAWN}[name]
    drawn = {"do_sample": True} if name in DRAWN else {}
    with served(tmp_path) as server:
        body = sent(server, **{**drawn, name: value})
    assert {key: body.get(key) for key in wanted} == wanted


def test_vllm_is_told_everything_by_name_because_it_knows_the_names(tmp_path):
    with served(tmp_path, models=VLLM) as server:
        body = sent(server, do_sample=True, max_length=60)
    told = {"top_k": 50, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False,
            "truncate_prompt_tokens": 52, "truncation_side": "left", "return_token_ids": True}  # fmt: skip
    assert {key: body[key] for key in told} == told


def test_vllm_keeps_the_end_of_a_prompt_that_is_too_long_and_the_answer_gets_at_most_half(tmp_path):
    with served(tmp_path, models=VLLM) as server:
        body = sent(server, max_new_tokens=80)
        long = Request(0, "word " * 200)
        made = answers(server, [long, TEXTS[0]], {"max_new_tokens": 80})
    assert (body["max_tokens"], body["truncate_prompt_tokens"]) == (50, 50)
    assert [made[index].truncated for index in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("form", "chat", "text"),
    [
        ('{"json_schema": {"type": "object"}}', "response_format", "response_format"),
        ('{"choices": ["yes", "no"]}', "structured_outputs", "structured_outputs"),
    ],
)
def test_a_form_is_asked_for_as_the_protocol_and_vllm_name_it(tmp_path, form, chat, text):
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    wanted = {"response_format": schema, "structured_outputs": {"choice": ["yes", "no"]}}
    with served(tmp_path) as server:
        assert sent(server, TALK, response_format=form)[chat] == wanted[chat]
        assert sent(server, TEXTS[0], response_format=form)[text] == wanted[text]


@pytest.mark.parametrize(("request_", "each"), [(TEXTS[0], -0.25), (TALK, -0.5)])
def test_logprobs_of_both_kinds_of_answers_are_read(tmp_path, request_, each):
    with served(tmp_path) as server:
        (made,) = answers(server, [request_], {"logprobs": True}).values()
    assert made.logprobs == (each,) * len(made.text.split())


def test_the_reasons_of_an_end_are_ours(tmp_path):
    for reason, wanted in {"length": "length", "stop": "stop", "tool_calls": "stop", None: "stop"}.items():
        with served(tmp_path / str(reason), finish_reason=reason) as server:
            assert answers(server, TEXTS[:1])[0].finish_reason == wanted


def test_calls_that_the_server_took_out_of_the_text_are_the_answer(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    with served(tmp_path, message={"role": "assistant", "content": None, "tool_calls": [call]}) as server:
        made = answers(server, [TALK])[0]
    assert json.loads(made.text) == [{"name": "add", "arguments": {"a": 1}}]


def test_the_only_model_is_found_and_several_must_be_chosen_from(tmp_path):
    two = [{"id": "one"}, {"id": "two"}]
    with served(tmp_path, models=two) as server:
        with pytest.raises(UserError, match=r"GEN-E0243 .*one, two"):
            answers(server)
        answers(server, TEXTS[:1], endpoint_model="two")
        assert server.requests()[-1]["body"]["model"] == "two"


@pytest.mark.parametrize("longest", ["x", 0, 1, -4, True, None])
def test_a_length_that_no_model_has_bounds_nothing(tmp_path, longest):
    with served(tmp_path, models=[{"id": "m", "max_model_len": longest}]) as server:
        answers(server, TEXTS[:1])
        assert server.requests()[0]["body"]["max_tokens"] == settings(server.url).decoding.max_new_tokens


def test_a_server_that_lists_no_models_is_told_the_name(tmp_path):
    with served(tmp_path, models=None) as server:
        with pytest.raises(UserError, match="GEN-E0241"):
            answers(server)
        assert len(answers(server, endpoint_model="mine")) == 5


PASSING = {
    "a limit": {"status": 429, "headers": {"Retry-After": "0.25"}},
    "a limit without a time": {"status": 429},
    "an error of the server": {"status": 500},
    "a restart": {"status": 503, "headers": {"Retry-After": "0"}},
    "a reset": {"reset": True},
    "no JSON": {"garbage": "<html>busy</html>"},
    "other JSON": {"garbage": '{"choices": []}'},
    "no object": {"garbage": "[1, 2]"},
    "no text": {"garbage": '{"choices": [{"text": null}]}'},
    "a wait that is no number": {"status": 503, "headers": {"Retry-After": "nan"}},
    "an endless wait": {"status": 503, "headers": {"Retry-After": "inf"}},
    "endless tokens": {"garbage": '{"choices": [{"text": "a"}], "usage": {"prompt_tokens": Infinity}}'},
    "fewer than no tokens": {"garbage": '{"choices": [{"text": "a"}], "usage": {"completion_tokens": -1}}'},
    "more tokens than there can be": {"garbage": '{"choices": [{"text": "a", "token_ids": [9223372036854775808]}]}'},
    "tokens that are no ids": {"garbage": '{"choices": [{"text": "a", "token_ids": "12"}]}'},
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_no_answer_is_missing_or_double(tmp_path, name):
    with served(tmp_path, failures=[PASSING[name]] * 2) as server:
        assert len(answers(server, endpoint_concurrency=1)) == 5
        assert len(server.requests()) == 7


def test_the_server_is_given_the_seconds_that_it_asks_for(tmp_path):
    with served(tmp_path, failures=[{"status": 429, "headers": {"Retry-After": "1.5"}}]) as server:
        answers(server, TEXTS[:2], endpoint_concurrency=1)
        first, second, _ = [one["time"] for one in server.requests()]
    assert second - first >= 1.5


def test_all_requests_pause_while_the_server_asks_for_it(tmp_path):
    with served(tmp_path, failures=[{"status": 429, "headers": {"Retry-After": "1.5"}}]) as server:
        answers(server, TEXTS * 4, endpoint_concurrency=2)
        times = [one["time"] for one in server.requests()]
    assert sum(time - times[0] < 1.3 for time in times) <= 4  # those that were on their way


@pytest.mark.parametrize("name", [*PASSING, "hangs"])
def test_a_server_that_fails_on_is_an_outage_within_the_patience(tmp_path, monkeypatch, name):
    monkeypatch.setattr(endpoint_waiting, "PATIENCE", 0.8)
    failure = PASSING.get(name, {"seconds": 1000})
    began = time.monotonic()
    with served(tmp_path, always=failure) as server, pytest.raises(Outage) as told:
        answers(server, endpoint_timeout_seconds=1)
    assert time.monotonic() - began < LONG
    assert told.value.exit_code == 4
    assert told.value.transient
    assert "GEN-E0441" in str(told.value)


def test_a_server_that_is_not_there_is_an_outage():
    began = time.monotonic()
    with pytest.raises(Outage, match="GEN-E0441"):
        open_engine(settings("http://127.0.0.1:9/v1"), None)
    assert time.monotonic() - began < LONG


def test_a_server_that_does_not_answer_at_all_is_an_outage(tmp_path):
    failing = {"always": {"seconds": 1000}, "everywhere": True}
    with served(tmp_path, **failing) as server, pytest.raises(Outage, match="endpoint_timeout_seconds"):
        answers(server, endpoint_timeout_seconds=1)


def test_a_wait_beyond_the_patience_is_not_waited_for(tmp_path):
    failure = {"status": 429, "headers": {"Retry-After": "600"}}
    began = time.monotonic()
    with served(tmp_path, always=failure) as server, pytest.raises(Outage, match="again in 600 s"):
        answers(server)
    assert time.monotonic() - began < LONG


def test_an_empty_account_is_told_at_once_and_not_tried_again(tmp_path):
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    with served(tmp_path, always={"status": 429, "body": body}) as server:
        with pytest.raises(Outage, match="raise the quota") as told:
            answers(server, TEXTS[:1])
        assert len(server.requests()) == 1
    assert not told.value.transient


def test_slow_answers_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_waiting, "PATIENCE", 0.5)
    with served(tmp_path, always={"seconds": 1.5}) as server:
        assert len(answers(server)) == 5


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "correct endpoint_model"),
        (400, "what the server names"),
        (422, "what the server names"),
        (413, "shorten the prompt"),
    ],
)
def test_what_the_server_refuses_is_told_in_its_words_and_not_tried_again(tmp_path, status, words):
    body = {"error": {"message": f"it is this that is wrong, {KEY}", "type": "x"}}
    with served(tmp_path, always={"status": status, "body": body}) as server:
        with pytest.raises(UserError) as told:
            answers(server, TEXTS[:1])
        assert len(server.requests()) == 1
    assert "GEN-E0241" in str(told.value)
    assert f"{status}: it is this that is wrong" in str(told.value)
    assert words in str(told.value)
    assert KEY not in str(told.value)


@pytest.mark.parametrize("body", [{"detail": "my words"}, {"message": "my words"}, {"error": "my words"}, "my words"])
def test_the_words_of_other_servers_are_found(tmp_path, body):
    with served(tmp_path, always={"status": 400, "body": body}) as server, pytest.raises(UserError, match="my words"):
        answers(server, TEXTS[:1])


def test_answers_before_a_refusal_are_given(tmp_path):
    bad = {"status": 400, "body": {"error": {"message": "no"}}}
    with served(tmp_path, failures=[{"seconds": 0}] * 3, always=bad) as server:
        engine = open_engine(settings(server.url, endpoint_concurrency=1), None)
        coming = engine.complete(TEXTS)
        assert [index for index, _ in islice(coming, 3)] == [0, 1, 2]
        with pytest.raises(UserError):
            next(coming)


def test_as_many_requests_run_at_a_time_as_are_allowed(tmp_path):
    with served(tmp_path, always={"seconds": 0.2}) as server:
        answers(server, TEXTS * 4, endpoint_concurrency=3)
        assert max(one["running"] for one in server.requests()) == 3


def test_no_more_requests_are_sent_in_a_minute_than_allowed(tmp_path):
    with served(tmp_path) as server:
        began = time.time()
        answers(server, endpoint_requests_per_minute=240)
        times = sorted(one["time"] for one in server.requests())
    # A request may arrive late, so that two arrive close together, but none arrives before it may be sent.
    assert [number for number, one in enumerate(times) if one - began < number * 0.25 - 0.01] == []


def test_the_key_is_in_no_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with served(tmp_path, failures=[{"status": 500, "body": {"error": {"message": f"bad {KEY}"}}}]) as server:
        answers(server)
    assert "trying again" in caplog.text
    assert KEY not in caplog.text


def test_a_reader_that_stops_early_is_not_made_to_wait(tmp_path):
    with served(tmp_path, failures=[{"seconds": 0}], always={"seconds": 1000}) as server:
        began = time.monotonic()
        with open_engine(settings(server.url), None) as engine:
            for _ in engine.complete(TEXTS):
                break
    assert time.monotonic() - began < LONG
    assert not [one for one in threading.enumerate() if one.name == "endpoint"]


def test_a_signal_reaches_the_reader_while_it_waits(tmp_path):
    class Asked(BaseException):
        pass

    def stop(*_):
        raise Asked

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with served(tmp_path, always={"seconds": 1000}) as server, open_engine(settings(server.url), None) as engine:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            began = time.monotonic()
            with pytest.raises(Asked):
                list(engine.complete(TEXTS))
            assert time.monotonic() - began < LONG
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_thousand_answers_come_from_one_call(tmp_path):
    requests = [Request(row, f"text {row}") for row in range(1000)]
    with served(tmp_path) as server:
        made = answers(server, requests, endpoint_concurrency=16)
    assert {index: one.text for index, one in made.items()} == {row: f"answer to text {row}" for row in range(1000)}
