"""generate with an engine that computes nothing: rows, order, columns, journal, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import echo_engine
import pyarrow.parquet as pq
import pytest
import yaml
from prompt_rows import answers_in, talk_row, text_row, write_prompts
from waiting import LONG, time_with

from steps import running
from steps.artifacts import new_artifact, read_manifest
from steps.errors import Outage, OutOfResources, Preempted, UserError
from steps.generate import answering, places, progress, rows, survey
from steps.generate.asking import seed_of
from steps.generate.counting import spread
from steps.generate.journal import Journal, encodable, with_sum
from steps.generate.step import generate
from steps.generation import engines
from steps.generation.requests import Completion, Request
from steps.params.checked_json import sealed, unsealed
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings
from steps.running import Stopped


@pytest.fixture(autouse=True)
def echo(monkeypatch, tmp_path):
    monkeypatch.setitem(engines.ENGINES, "accelerate", "echo_engine")
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("ECHO_LOG", str(tmp_path / "asked"))
    monkeypatch.setattr(rows, "SEGMENT", 64)
    monkeypatch.setattr(answering, "WINDOW", 20)


def settings(**decoding) -> GenerateSettings:
    return GenerateSettings(decoding=DecodingParams(**decoding))


def asked(tmp_path: Path) -> list[tuple[int, int]]:
    """The requests that engines got, in order."""
    file = tmp_path / "asked"
    return [tuple(map(int, line.split()[1:])) for line in file.read_text().splitlines()] if file.exists() else []


def journals(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "root/checkpoints/generate").glob("*/generation.json"))


def expected(count: int, decoding: DecodingParams) -> list[tuple[int, int, str]]:
    """What the engine answers to plain rows, one by one."""
    told = []
    for row in range(count):
        for sample in range(decoding.num_return_sequences):
            request = Request(row, text_row(row)["text"], seed=seed_of(decoding.generation_seed, row, sample))
            told.append((row, sample, echo_engine.answer_to(request).text))
    return told


class Interrupted(Exception):
    pass


def ends_after(monkeypatch, count: int, error: BaseException) -> None:
    """Let the engine fail when it has answered `count` times, once."""
    complete = echo_engine.Echo.complete

    def failing(self, requests):
        for index, pair in enumerate(complete(self, requests)):
            if index + failing.before == count:
                monkeypatch.setattr(echo_engine.Echo, "complete", complete)
                raise error
            yield pair
        failing.before += len(requests)

    failing.before = 0
    monkeypatch.setattr(echo_engine.Echo, "complete", failing)


# --- what is written ---


def test_every_row_is_answered_once_in_the_order_of_the_input(tmp_path):
    data = write_prompts(tmp_path / "data", map(text_row, range(150)))
    manifest = generate(settings(), None, data, tmp_path / "generations")
    lines = answers_in(tmp_path / "generations")
    assert [(one["row"], one["sample"], one["generations"]) for one in lines] == expected(150, DecodingParams())
    assert [pq.read_metadata(tmp_path / f"generations/generations_0000{number}.parquet").num_rows
            for number in range(3)] == [64, 64, 22]  # fmt: skip
    assert lines[7]["prompt_text"] == lines[7]["prompt"] == "What comes after 7?"
    assert lines[7]["reference"] == "8"
    assert manifest == read_manifest(tmp_path / "generations", "generations")
    assert journals(tmp_path) == []
    assert not list(tmp_path.glob("root/checkpoints/generate/*"))


def test_each_of_several_answers_draws_from_its_own_seed(tmp_path):
    data = write_prompts(tmp_path / "data", map(text_row, range(70)))
    generate(settings(do_sample=True, num_return_sequences=3), None, data, tmp_path / "generations")
    lines = answers_in(tmp_path / "generations")
    decoding = DecodingParams(do_sample=True, num_return_sequences=3)
    assert [(one["row"], one["sample"], one["generations"]) for one in lines] == expected(70, decoding)
    assert len({one["generations"] for one in lines}) > 150
    assert all(one["prompt_text"] == text_row(one["row"])["text"] for one in lines)


def test_seeds_differ_by_seed_row_and_sample_and_fit_every_engine():
    seeds = {seed_of(seed, row, sample) for seed in (1, 2) for row in range(500) for sample in range(4)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1, 11, 1) != seed_of(1, 1, 11)


def test_facts_are_the_numbers_of_the_answers(tmp_path):
    data = write_prompts(tmp_path / "data", map(text_row, range(150)))
    facts = generate(settings(), None, data, tmp_path / "generations").facts
    lines = answers_in(tmp_path / "generations")
    assert facts["rows"] == facts["answers"] == facts["references"] == 150
    assert facts["completion_tokens"] == sum(one["completion_tokens"] for one in lines)
    assert facts["truncated_prompts"] == sum(one["truncated"] for one in lines) > 0
    reasons = [one["finish_reason"] for one in lines]
    assert facts["finish_reasons"] == {name: reasons.count(name) for name in ("length", "stop")}
    assert facts["completion_length"]["max"] == max(one["completion_tokens"] for one in lines)
    assert sum(facts["completion_length"]["histogram"]["counts"]) == 150
    assert facts["engine"] == {"name": "accelerate", "versions": {"echo": "1"}}
    assert facts["answers_before"] == 0


def test_lengths_are_described_as_numpy_does():
    import numpy as np

    draw = np.random.default_rng(0)
    for lengths in ([5], [3, 3, 9], list(range(100)), draw.integers(1, 3000, 999).tolist()):
        told = spread(Counter(lengths))
        assert (told["min"], told["max"]) == (min(lengths), max(lengths))
        for name, share in (("median", 50), ("p95", 95)):
            assert told[name] == np.percentile(lengths, share, method="inverted_cdf")
        edges = told["histogram"]["edges"]
        assert told["histogram"]["counts"] == np.histogram(lengths, edges)[0].tolist()
        assert len(edges) <= 21


def test_the_users_columns_come_back_with_their_types(tmp_path):
    more = [
        {"city": "Graz", "level": 3, "share": 1, "sure": True, "tags": ["a", "b"], "mixed": 1, "row": "theirs"},
        {"city": None, "level": 2**62, "share": 0.5, "sure": False, "tags": {"c": None}, "mixed": "x", "huge": 2**80},
        None,
    ]
    given = [text_row(number, more=one, id=f"q{number}") for number, one in enumerate(more)]
    generate(settings(), None, write_prompts(tmp_path / "data", given), tmp_path / "generations")
    lines = answers_in(tmp_path / "generations")
    wanted = ["id", "city", "level", "share", "sure", "tags", "mixed", "input_row", "huge", "row"]
    assert [[one[name] for name in wanted] for one in lines] == [
        ["q0", "Graz", 3, 1.0, True, '["a","b"]', "1", "theirs", None, 0],
        ["q1", None, 2**62, 0.5, False, '{"c":null}', '"x"', None, str(2**80), 1],
        ["q2", None, None, None, None, None, None, None, None, 2],
    ]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([2**53, 0.5], [float(2**53), 0.5]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),  # a float would round it
        ([0.5, 1, -(2**63)], ["0.5", "1", str(-(2**63))]),
        ([2**53 + 1, 1, None], [2**53 + 1, 1, None]),
    ],
)
def test_whole_numbers_that_no_float_holds_stay_exact(tmp_path, values, written):
    given = [text_row(number, more={"x": value}) for number, value in enumerate(values)]
    generate(settings(), None, write_prompts(tmp_path / "data", given), tmp_path / "generations")
    assert [one["x"] for one in answers_in(tmp_path / "generations")] == written


def test_more_columns_than_a_table_can_have_stay_together(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MOST_COLUMNS", 10)
    given = [text_row(number, more={f"column {number}": number}) for number in range(11)]
    generate(settings(), None, write_prompts(tmp_path / "data", given), tmp_path / "generations")
    assert [json.loads(one["more"]) for one in answers_in(tmp_path / "generations")] == [
        {f"column {number}": number} for number in range(11)
    ]


def test_log_probabilities_come_with_their_tokens_when_asked_for(tmp_path):
    data = write_prompts(tmp_path / "data", map(text_row, range(5)))
    generate(settings(), None, data, tmp_path / "without")
    assert not {"logprobs", "token_ids"} & set(answers_in(tmp_path / "without")[0])
    generate(settings(logprobs=True), None, data, tmp_path / "with")
    for row, line in enumerate(answers_in(tmp_path / "with")):
        request = Request(row, text_row(row)["text"], seed=seed_of(42, row, 0))
        right = echo_engine.answer_to(request, logprobs=True)
        assert (tuple(line["token_ids"]), tuple(line["logprobs"])) == (right.token_ids, right.logprobs)


def test_the_yaml_list_has_the_seeds_keys_and_the_same_answers(tmp_path):
    odd = [
        "",
        "- a: b",
        "é😀\u2028\x85\x7f\x00",
        "a\r\nb\tc",
        " lead",
        "trail \n\n",
        "*alias",
        "%",
        "1e3",
        "word " * 99,
    ]
    given = [text_row(number, text=text) for number, text in enumerate(odd)]
    given[1] |= {"reference": None, "id": "0012"}
    generate(settings(max_new_tokens=9), None, write_prompts(tmp_path / "data", given), tmp_path / "generations")
    listed = yaml.safe_load((tmp_path / "generations/answers.yaml").read_text(encoding="utf-8"))
    lines = answers_in(tmp_path / "generations")
    assert [list(one) for one in listed] == [
        ["dataset", "id", "prompt", "answer", "correct_answers", "test_type", "data_collection", "truncated",
         "all_text_raw", "gen_params"]
    ] * len(odd)  # fmt: skip
    for line, one, text in zip(lines, listed, odd, strict=True):
        assert (one["prompt"], one["answer"]) == (text, line["generations"])
        assert one["all_text_raw"] == text + line["generations"]
        assert one["truncated"] == line["truncated"]
        assert (one["test_type"], one["dataset"]) == ("open-ended", "sums")
        assert one["data_collection"] == "s3://bucket/sums.v2.jsonl"
    assert [one["id"] for one in listed[:3]] == [0, "0012", 2]
    assert [one["correct_answers"] for one in listed[:3]] == [["1"], [], ["3"]]
    assert all(one["gen_params"]["max_new_tokens"] == 9 for one in listed)
    assert set(listed[0]["gen_params"]) == {*DecodingParams.model_fields, "quant_conf", "model_conf"}


def test_halves_of_surrogate_pairs_are_replaced():
    assert encodable("a\ud83db \U0001f600") == "a\ufffdb \U0001f600"
    assert encodable("plain é") == "plain é"


def test_conversations_are_rendered_by_the_models_template_or_the_datas(tmp_path, tiny_model):
    from transformers import AutoTokenizer

    tools = '[{"type":"function","function":{"name":"add"}}]'
    given = [talk_row(0), talk_row(1, tools=tools), text_row(2)]
    data = write_prompts(tmp_path / "data", given)
    generate(settings(), tiny_model, data, tmp_path / "generations")
    lines = answers_in(tmp_path / "generations")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    talk = [{"role": "user", "content": "What comes after 0?"}]
    right = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert lines[0]["prompt_text"] == right
    assert lines[0]["messages"] == [{"role": "user", "content": "What comes after 0?", "more": None}]
    assert lines[1]["tools"] == tools
    assert (lines[2]["messages"], lines[2]["prompt_text"]) == (None, text_row(2)["text"])
    listed = yaml.safe_load((tmp_path / "generations/answers.yaml").read_text())
    assert listed[0]["prompt"] == talk
    assert listed[0]["all_text_raw"] == right + lines[0]["generations"]
    assert listed[0]["gen_params"]["model_conf"]["model"] == tiny_model.name
    with new_artifact(tmp_path / "templated", "data") as draft:
        shutil.copytree(data / "rows", draft / "rows")
        (draft / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
        draft.facts = read_manifest(data).facts
    generate(settings(), tiny_model, tmp_path / "templated", tmp_path / "other")
    assert answers_in(tmp_path / "other")[0]["prompt_text"] == "<What comes after 0?>"


def test_a_server_gets_conversations_as_they_are(tmp_path, monkeypatch):
    seen = []
    complete = echo_engine.Echo.complete
    monkeypatch.setattr(echo_engine.Echo, "complete", lambda self, asked: seen.extend(asked) or complete(self, asked))
    generate(settings(), None, write_prompts(tmp_path / "data", [talk_row(0)]), tmp_path / "generations")
    assert seen[0].messages == ({"role": "user", "content": "What comes after 0?"},)
    assert (seen[0].prompt, seen[0].rendered) == ("", False)
    assert answers_in(tmp_path / "generations")[0]["prompt_text"] is None


def test_questions_of_other_tasks_are_answered_too(tmp_path, tiny_model):
    import pyarrow as pa
    from conftest import chat_rows

    from steps.artifacts import new_artifact
    from steps.tasks import chat_completion

    with new_artifact(tmp_path / "data", "data") as draft:
        (draft / "rows").mkdir()
        canonical = [chat_completion.canonical(row, chat_completion.Columns()) for row in chat_rows(3)]
        pq.write_table(pa.Table.from_pylist(canonical, chat_completion.SCHEMA), draft / "rows/test.parquet")
    asking = GenerateSettings(task="chat_completion")
    generate(asking, tiny_model, tmp_path / "data", tmp_path / "generations")
    lines = answers_in(tmp_path / "generations")
    assert [one["reference"] for one in lines] == ["1.", "2.", "3."]
    assert "What comes after 2?" in lines[2]["prompt_text"]
    with new_artifact(tmp_path / "unasked", "data") as draft:
        (draft / "rows").mkdir()
        canonical[1]["messages"] = canonical[1]["messages"][:1]
        pq.write_table(pa.Table.from_pylist(canonical, chat_completion.SCHEMA), draft / "rows/test.parquet")
    with pytest.raises(UserError, match="GEN-E0222 row 1"):
        generate(asking, tiny_model, tmp_path / "unasked", tmp_path / "none")


# --- what is refused ---


def test_data_without_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="GEN-E0221"):
        generate(settings(), None, write_prompts(tmp_path / "data", []), tmp_path / "generations")


def test_rows_that_no_template_writes_are_refused_together_before_the_first_answer(tmp_path, tiny_model):
    data = write_prompts(tmp_path / "data", map(talk_row, range(100)))
    (data / "chat_template.jinja").write_text(
        "{% if '7?' in messages[0].content %}{{ raise_exception('no sevens') }}{% endif %}{{ messages[0].content }}"
    )
    with pytest.raises(UserError, match="GEN-E0223 row 7: found no sevens") as refused:
        generate(settings(), tiny_model, data, tmp_path / "generations")
    assert [one.where for one in refused.value.problems] == ["row 7", "row 17", "row 27", "row 37", "row 47"]
    assert asked(tmp_path) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    data = write_prompts(tmp_path / "data", [text_row(0)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="GEN-E0224 checkpoint_dir"):
        generate(settings().model_copy(update={"checkpoint_dir": str(tmp_path / "file")}), None, data, tmp_path / "out")


def test_processes_without_a_gpu_each_are_refused(tmp_path, monkeypatch):
    from steps.generate import processes

    data = write_prompts(tmp_path / "data", [text_row(0)])
    monkeypatch.setattr(processes, "_visible_gpus", lambda: ["0", "3", "5"])
    several = lambda count: settings().model_copy(update={"engine": EngineParams(inference_processes=count)})  # noqa: E731
    with pytest.raises(OutOfResources, match="GEN-E0521"):
        generate(several(4), None, data, tmp_path / "out")
    shares = lambda count, model: processes.devices_of_processes(  # noqa: E731
        answering.Inputs(several(count), model, None, data)
    )
    assert shares(2, None) == ["0", "3"]
    assert shares(3, None) == ["0", "3", "5"]
    monkeypatch.setattr(processes, "_fits", lambda _: True)
    assert shares(0, tmp_path) == ["0", "3", "5"]
    monkeypatch.setattr(processes, "_fits", lambda _: False)
    assert shares(0, tmp_path) == [None]
    monkeypatch.setattr(processes, "_visible_gpus", list)
    assert shares(2, None) == [None, None]


def test_an_endpoint_is_asked_by_one_process():
    (problem,) = EngineParams(inference_type="endpoint", endpoint_url="http://a/v1", inference_processes=2).conflicts()
    assert problem.code == "PARAM-E0319"


def test_an_engine_that_leaves_out_a_request_is_found_out(tmp_path, monkeypatch):
    complete = echo_engine.Echo.complete
    monkeypatch.setattr(echo_engine.Echo, "complete", lambda self, asked: list(complete(self, asked))[1:])
    with pytest.raises(RuntimeError, match="answered 4 of 5 requests"):
        generate(settings(), None, write_prompts(tmp_path / "data", map(text_row, range(5))), tmp_path / "out")


# --- going on ---


@pytest.mark.parametrize("count", [0, 1, 19, 20, 63, 64, 65, 149])
def test_a_run_that_ended_goes_on_and_asks_for_nothing_twice(tmp_path, monkeypatch, count):
    data = write_prompts(tmp_path / "data", map(text_row, range(150)))
    ends_after(monkeypatch, count, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    assert not (tmp_path / "generations").exists()
    facts = generate(settings(), None, data, tmp_path / "generations").facts
    lines = answers_in(tmp_path / "generations")
    assert [(one["row"], one["sample"], one["generations"]) for one in lines] == expected(150, DecodingParams())
    assert facts["answers_before"] == count
    # The engine had made one answer more when it failed.
    assert len(asked(tmp_path)) == 151


def test_a_torn_or_damaged_line_is_answered_again(tmp_path, monkeypatch):
    data = write_prompts(tmp_path / "data", map(text_row, range(50)))
    ends_after(monkeypatch, 40, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    (folder,) = [file.parent for file in journals(tmp_path)]
    (part,) = folder.glob("*.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) == 40
    lines[5] = b"\0" * len(lines[5])  # what a file system may leave after a power failure
    lines[9] = lines[9][:10] + b"\n"
    lines[11] = lines[11] + lines[11]
    lines[39] = lines[39][:-9]
    lines[20] = lines[20].replace(b'"prompt_tokens":', b'"prompt_tokens":1')
    part.write_bytes(b"".join(lines))
    part.rename(part.with_suffix(".open"))
    facts = generate(settings(), None, data, tmp_path / "generations").facts
    assert facts["answers_before"] == 35  # the zeros have no line end, so that the next line is lost too
    told = [(one["row"], one["sample"], one["generations"]) for one in answers_in(tmp_path / "generations")]
    assert told == expected(50, DecodingParams())


WHOLE = {"row": 0, "sample": 0, "text": "x", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
         "truncated": False}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{name: value} for name in WHOLE for value in (None, [], 1.5)]
    + [{"row": True}, {"truncated": 0}, {"prompt_text": 5}, {"logprobs": "x"}, {"token_ids": {}}],
)
def test_a_line_without_the_values_of_an_answer_is_answered_again(tmp_path, monkeypatch, changes):
    data = write_prompts(tmp_path / "data", map(text_row, range(4)))
    ends_after(monkeypatch, 2, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    (folder,) = [file.parent for file in journals(tmp_path)]
    next(folder.glob("*.jsonl")).write_bytes(with_sum({**WHOLE, **changes}))
    assert generate(settings(), None, data, tmp_path / "generations").facts["answers_before"] == 0
    told = [(one["row"], one["sample"], one["generations"]) for one in answers_in(tmp_path / "generations")]
    assert told == expected(4, DecodingParams())


@pytest.mark.parametrize("text", ["", "[1]", '"x"', '{"nope": 1}', '{"texts": "a"}', "\0\0", "WRONG COLUMN"])
def test_a_damaged_survey_is_made_again(tmp_path, monkeypatch, text):
    data = write_prompts(tmp_path / "data", [text_row(row, more={"x": row}) for row in range(4)])
    ends_after(monkeypatch, 2, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    (file,) = [file.with_name("survey.json") for file in journals(tmp_path)]
    kept = unsealed(file.read_bytes())
    file.write_text(sealed({**kept, "columns": {"x": "date"}}) if text == "WRONG COLUMN" else text)
    generate(settings(), None, data, tmp_path / "generations")
    assert [one["x"] for one in answers_in(tmp_path / "generations")] == [0, 1, 2, 3]


def test_other_data_or_settings_begin_anew(tmp_path, monkeypatch):
    data = write_prompts(tmp_path / "data", map(text_row, range(50)))
    ends_after(monkeypatch, 40, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    other = write_prompts(tmp_path / "other", map(text_row, range(1, 51)))
    assert generate(settings(), None, other, tmp_path / "a").facts["answers_before"] == 0
    assert generate(settings(temperature=0.5), None, data, tmp_path / "b").facts["answers_before"] == 0
    same = settings().model_copy(update={"engine": EngineParams(test_batch_size=2), "gpus": 0})
    assert generate(same, None, data, tmp_path / "c").facts["answers_before"] == 40


def test_parameters_that_change_no_answer_are_parameters():
    assert set(EngineParams.model_fields) > places.UNSEEN


def test_beams_of_one_search_are_asked_for_together(tmp_path, monkeypatch):
    data = write_prompts(tmp_path / "data", map(text_row, range(10)))
    ends_after(monkeypatch, 7, Interrupted())
    wanted = settings(num_beams=3, num_return_sequences=3)
    with pytest.raises(Interrupted):
        generate(wanted, None, data, tmp_path / "generations")
    before = len(asked(tmp_path))
    generate(wanted, None, data, tmp_path / "generations")
    again = asked(tmp_path)[before:]
    assert {row: sum(one == row for one, _ in again) for row, _ in again} == {row: 3 for row, _ in again}
    told = [(one["row"], one["sample"], one["generations"]) for one in answers_in(tmp_path / "generations")]
    assert told == expected(10, DecodingParams(num_beams=3, num_return_sequences=3))


def test_a_run_that_is_stopped_says_where_it_was(tmp_path, monkeypatch, caplog):
    data = write_prompts(tmp_path / "data", map(text_row, range(150)))
    ends_after(monkeypatch, 90, Stopped())
    with pytest.raises(Preempted, match="GEN-E1431 after 90 of 150 rows") as stopped:
        generate(settings(), None, data, tmp_path / "generations")
    assert Path(stopped.value.resume_from, "generation.json").exists()
    # A request to stop may be lost in a destructor.
    monkeypatch.setattr(answering, "was_asked_to_stop", lambda: True)
    with pytest.raises(Preempted, match="after 91 of 150 rows"):
        generate(settings(), None, data, tmp_path / "generations")
    assert "generate" in running.RESUMING


def test_the_artifact_is_written_from_a_whole_journal_without_the_engine(tmp_path, monkeypatch):
    from steps.generate import step

    data = write_prompts(tmp_path / "data", map(text_row, range(30)))
    with monkeypatch.context() as patched:
        patched.setattr(step, "write_answers", lambda *_: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            generate(settings(), None, data, tmp_path / "generations")
    monkeypatch.setattr(engines, "open_engine", None)
    facts = generate(settings(), None, data, tmp_path / "generations").facts
    assert (facts["answers_before"], facts["engine"]["name"]) == (30, "accelerate")


def test_two_runs_do_not_share_a_journal(tmp_path, monkeypatch):
    from steps.sources import locks

    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.2)
    data = write_prompts(tmp_path / "data", map(text_row, range(30)))
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with places.journal_for(settings(), {"data": read_manifest(data).digest}, tmp_path / "generations"):
            inside.set()
            leave.wait(LONG)

    other = threading.Thread(target=first)
    other.start()
    inside.wait(LONG)
    with pytest.raises(Outage, match="CHECKPOINT-E0401"):
        generate(settings(), None, data, tmp_path / "generations")
    monkeypatch.setattr(locks, "LOCK_SECONDS", 20)
    threading.Timer(0.3, leave.set).start()
    generate(settings(), None, data, tmp_path / "generations")  # the first one deletes what this one waits for
    other.join()
    assert len(answers_in(tmp_path / "generations")) == 30


def test_without_a_place_the_journal_is_beside_the_result(tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    data = write_prompts(tmp_path / "data", map(text_row, range(30)))
    ends_after(monkeypatch, 9, Interrupted())
    with pytest.raises(Interrupted):
        generate(settings(), None, data, tmp_path / "generations")
    assert list(tmp_path.glob("generations.unfinished/generate/*/*.jsonl"))
    assert generate(settings(), None, data, tmp_path / "generations").facts["answers_before"] == 9
    assert not list(tmp_path.glob("generations.unfinished*"))


# --- a store ---


def test_a_pod_goes_on_with_the_answers_in_a_store(tmp_path, monkeypatch, memory):
    from stores import ROOT, objects

    from steps.generate import stored
    from steps.sources import locks

    for module, name, seconds in ((stored, "LOOK_SECONDS", 0.05), (locks, "SETTLE_SECONDS", 0.05),
                                  (places, "UPLOAD_SECONDS", 0.01)):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.delenv("FINETUNE_ROOT")
    monkeypatch.setenv("ECHO_SECONDS", "0.002")
    data = write_prompts(tmp_path / "data", map(text_row, range(150)))
    wanted = settings().model_copy(update={"checkpoint_dir": ROOT})
    ends_after(monkeypatch, 100, Stopped())
    with pytest.raises(Preempted) as stopped:
        generate(wanted, None, data, tmp_path / "pod-1/generations")
    assert stopped.value.resume_from.startswith(f"{ROOT}/generate/")
    names = [name.rpartition("/")[2] for name in objects(memory)]
    assert sum(name.endswith(".jsonl") for name in names) > 10
    assert "lock.json" not in names
    memory.puts.clear()
    facts = generate(wanted, None, data, tmp_path / "pod-2/generations").facts
    assert facts["answers_before"] == 100
    told = [(one["row"], one["sample"], one["generations"]) for one in answers_in(tmp_path / "pod-2/generations")]
    assert told == expected(150, DecodingParams())
    assert objects(memory) == {}


def test_a_store_that_fails_ends_no_run(tmp_path, monkeypatch, memory, caplog):
    from stores import ROOT

    from steps.generate import stored
    from steps.sources import locks

    for module, name, seconds in ((stored, "LOOK_SECONDS", 0.02), (stored, "FIRST_WAIT", 0.02),
                                  (locks, "SETTLE_SECONDS", 0.05), (places, "UPLOAD_SECONDS", 0.01)):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setenv("ECHO_SECONDS", "0.004")
    monkeypatch.setattr("steps.logs.log.propagate", True)
    memory.failures.extend([OSError("no route"), OSError("no route")])
    data = write_prompts(tmp_path / "data", map(text_row, range(60)))
    wanted = settings().model_copy(update={"checkpoint_dir": ROOT})
    with caplog.at_level("INFO", "finetune"):
        generate(wanted, None, data, tmp_path / "generations")
    assert len(answers_in(tmp_path / "generations")) == 60
    assert "answers cannot be uploaded" in caplog.text
    assert "are uploaded to memory://bucket/checkpoints" in caplog.text


# --- progress ---


def test_progress_tells_rows_tokens_and_time(monkeypatch):
    clock, lines = [100.0], []
    monkeypatch.setattr(progress, "time", time_with(monotonic=lambda: clock[0]))
    monkeypatch.setattr(progress, "log", SimpleNamespace(info=lambda text, *values: lines.append(text % values)))
    told = progress.Progress(rows=20_000, samples=2, before=400)
    told.begin()
    for _ in range(600):
        clock[0] += 0.05
        told.add(Completion("x", "stop", 5, 30))
    # 600 answers in 30 s: 20 a second; 39,000 are left after 1,000 of 40,000.
    assert told.line() == "row 500/20,000  600 tokens/s  32:30 left"
    assert lines[0] == "answering 20,000 rows, 200 of which are answered already"
    assert 2 <= len(lines) - 1 <= 3
    told.counts.answers = 60
    assert told.line().endswith("5:29:30 left")


def test_a_part_that_another_process_closes_is_read(tmp_path):
    journal = Journal(tmp_path)
    with journal.written(0, 0) as part:
        part.write(Request(3, "p"), Completion("a", "stop", 1, 1))
        assert journal.answered(0) == {3: {0}}
        listed = journal.parts(0)
        part.close()
        journal.parts = lambda _: listed
        assert journal.answered(0) == {3: {0}}


NO_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import echo_engine
from steps.generate.step import generate
from steps.generation import engines
from steps.params.settings import GenerateSettings
engines.ENGINES["endpoint"] = "echo_engine"
engine = {"inference_type": "endpoint", "endpoint_url": "http://there/v1"}
generate(GenerateSettings(engine=engine), None, Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_server_is_asked_from_an_image_without_torch(tmp_path):
    data = write_prompts(tmp_path / "data", [talk_row(0), text_row(1)])
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    words = [str(data), str(tmp_path / "generations"), str(tmp_path / "report.html")]
    subprocess.run([sys.executable, "-c", NO_TORCH, *words], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert len(answers_in(tmp_path / "generations")) == 2
    assert "user: What comes after 0?" in (tmp_path / "report.html").read_text()
