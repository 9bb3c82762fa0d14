"""A parameter, sent as people spell it, from all four ways in: what is accepted, and what is refused before a pod.

The ways: kfp's command line, kfp's client, `finetune submit`, and `pipelines.client.submit`. The first two send to the
backend what was typed, which compares it with the compiled type and choices; the others check it themselves.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kubeflow import GIVEN, remembered

from pipelines.catalog import PIPELINES
from pipelines.kfp_values import kfp_choices, kfp_type, kfp_value
from steps.params.reading import default_of

pytestmark = pytest.mark.slow

NEEDED = {
    "adapter_tools": {"pytorch_model_path": "s3://models/base", "adapter_path": "s3://models/adapter"},
    "batch_inference": {"pytorch_model_path": "s3://models/base", "test_file_path": "s3://rows/prompts.jsonl"},
}
# Type in KFP → words that people type, which must be accepted by all ways, besides default and choices.
SPELLED = {int: ["3", "3.0"], float: ["3", "0.5", "1e-4"], bool: ["true", "false"], str: [], dict: ['{"a": 1}']}
WRONG = {int: ["many", '"3 rows"'], float: ["fast", "true"], bool: ["maybe", "3"], dict: ["text", "3"], list: ["text"]}


def fields_of(name: str) -> dict[str, Any]:
    """Return the parameters of a pipeline; but for the first one, those that it does not declare in the same way."""
    fields, first = (PIPELINES[one].parameters.model_fields for one in (name, "chat_completion"))
    if name == "chat_completion":
        return fields
    return {key: field for key, field in fields.items() if key not in first or shape(first[key]) != shape(field)}


def shape(field: Any) -> tuple:
    return kfp_type(field), default_of(field), kfp_choices(field)


def needed(name: str) -> dict[str, Any]:
    return NEEDED.get(name, GIVEN)


def word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def file(name, shared) -> str:
    """The compiled pipeline of a test."""
    from pipelines.compile import compile_pipelines

    def write(folder: Path) -> None:
        compile_pipelines([name], folder)

    return str(shared.made(f"compiled-{name}", write) / f"{name}_pipeline.yaml")


@cache
def read_by_kfp(file: str) -> Any:
    """Let kfp's client read a compiled file, which it does for every run, in a quarter of a second each."""
    from kfp.client.client import _extract_pipeline_yaml

    return _extract_pipeline_yaml(file)


@pytest.fixture
def read_once(file, monkeypatch) -> None:
    read_by_kfp(file)
    monkeypatch.setattr("kfp.client.client._extract_pipeline_yaml", read_by_kfp)


@pytest.fixture
def by_command(file, kfp_server, read_once):
    """Start a run as `kfp run create` does; return what it says, or nothing if the run was created."""
    from click.testing import CliRunner
    from kfp.cli.cli import cli

    def send(pairs: dict[str, str]) -> str:
        words = [f"{name}={value}" for name, value in pairs.items()]
        done = CliRunner().invoke(
            cli, ["--endpoint", kfp_server.url, "run", "create", "-e", "e", "-f", file, *words], obj={}
        )
        return "" if done.exit_code == 0 else f"{done.output}{done.exception}"

    return send


@pytest.fixture
def by_client(file, kfp_server, read_once):
    """Start a run as a notebook does with kfp's client."""
    import kfp

    client = kfp.Client(kfp_server.url)

    def send(values: dict[str, Any]) -> str:
        try:
            client.create_run_from_pipeline_package(file, arguments=values, experiment_name="e")
        except Exception as error:
            return str(error)
        return ""

    return send


def wrong_words(name: str) -> list[dict[str, str]]:
    """Return rounds of words that no way may accept, one for each parameter in a round."""
    words = {}
    for key, field in fields_of(name).items():
        closed = kfp_choices(field) and kfp_type(field) is str
        words[key] = ["no-such-choice"] if closed else WRONG.get(kfp_type(field), [])
    longest = max(map(len, words.values()))
    return [{key: texts[number] for key, texts in words.items() if number < len(texts)} for number in range(longest)]


def typed(text: str) -> Any:
    """Return what kfp's command line makes of a word; in Python people write that themselves."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def rounds(name: str) -> list[dict[str, str]]:
    """Return rounds of words, so that every spelling of every parameter is in one; a run takes a round."""
    fields = {key: field for key, field in fields_of(name).items() if key != "overrides"}
    spelled = {}
    for key, field in fields.items():
        shown = [kfp_value(field, default_of(field)), *kfp_choices(field)]
        more = [] if kfp_choices(field) else SPELLED.get(kfp_type(field), [])
        spelled[key] = [word(value) for value in shown] + more
    longest = max(map(len, spelled.values()))
    return [{key: words[number % len(words)] for key, words in spelled.items()} for number in range(longest)]


def alone(rounds: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Return the words of all rounds by parameter, each once."""
    return list(dict.fromkeys(pair for one in rounds for pair in one.items()))


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_shown_can_be_typed_into_kfp(name, by_command, by_client, kfp_server):
    for number, one in enumerate(rounds(name)):
        assert by_command(one) == "", number
        assert by_client({key: typed(value) for key, value in one.items()}) == "", number
    assert len(kfp_server.asked("POST runs")) == 2 * len(rounds(name))


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_shown_can_be_given_to_ours(name):
    """Each spelling alone: together they contradict each other, which ours tells."""
    from pipelines.client.packages import package_of
    from pipelines.client.values import values_for
    from steps.errors import UserError

    package, fields = remembered(package_of)(name), fields_of(name)
    for key, text in alone(rounds(name)):
        for value in (text, typed(text)):  # of the command line; of Python
            try:
                sent = values_for(package, {**needed(name), key: value}).inputs[key]
            except UserError as error:
                own = [problem for problem in error.problems if problem.where == key]
                assert not [problem for problem in own if problem.code in ("PARAM-E0102", "CLIENT-E0107")], own
                continue
            if kfp_choices(fields[key]):
                assert sent in kfp_choices(fields[key]), (key, value)
            kind = kfp_type(fields[key])
            assert isinstance(sent, int | float if kind in (int, float) else kind), (key, value)


@pytest.fixture
def refused_by_ours(name, kfp_server):
    """Submit as our command does; return the names of the parameters that the refusal is about."""
    from pipelines.client import connect, submit
    from steps.errors import UserError

    server = connect(endpoint=kfp_server.url)

    def send(words: dict[str, str]) -> set[str]:
        try:
            submit(name, {**needed(name), **words}, server=server, plan=False)
        except UserError as error:
            return {key for problem in error.problems for key in re.findall(r"\w+", problem.where)}
        return set()

    return send


@pytest.mark.parametrize("name", PIPELINES)
def test_a_wrong_value_is_refused_by_all_and_starts_no_run(name, by_command, by_client, refused_by_ours, kfp_server):
    """A round of wrong values is sent at once, and every way names each of them."""
    accepted = []
    for one in wrong_words(name):
        for said in (by_command(one), by_client({key: typed(text) for key, text in one.items()})):
            accepted += [(key, text, said) for key, text in one.items() if f"parameter {key} " not in said]
        refused = refused_by_ours(one)
        left = {key: text for key, text in one.items() if key not in refused}  # another refusal comes before theirs
        accepted += [(key, text, "ours") for key, text in left.items() if key not in refused_by_ours({key: text})]
    assert accepted == []
    assert kfp_server.runs == {}
