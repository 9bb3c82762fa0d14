"""evaluate on tiny models: losses, answers, the artifact it writes, what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import build_model, build_tokenizer, chat_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from steps.artifacts import MANIFEST, new_artifact, read_manifest
from steps.errors import NumericError, Outage, UserError
from steps.evaluate.held_out import read_held_out
from steps.evaluate.step import evaluate
from steps.evaluate.transformers_engine import measure
from steps.params.evaluation import EvaluationParams
from steps.params.metrics import TextMetrics
from steps.params.reading import choices_of
from steps.params.settings import EvaluationSettings
from steps.tasks import load_task

pytestmark = pytest.mark.slow

LONG = "This is one much longer question than the others are, asked to make lengths differ"


def as_artifact(folder: Path, target: Path, kind: str = "model") -> Path:
    """Copy a plain folder into an artifact."""
    with new_artifact(target, kind) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True)
    return target


def write_data(target: Path, task: str, raw: list[dict], tokens: list[tuple[list[int], list[int]]], **columns) -> Path:
    """Write a data artifact with a test split."""
    module = load_task(task)
    with new_artifact(target, "data") as draft:
        for folder in ("rows", "tokens"):
            (draft / folder).mkdir()
        rows = [module.canonical(row, module.Columns(**columns)) for row in raw]
        pq.write_table(pa.Table.from_pylist(rows, module.SCHEMA), draft / "rows/test.parquet")
        ids, labels = ([pair[side] for pair in tokens] for side in (0, 1))
        lists = pa.list_(pa.int32())
        table = pa.table({"input_ids": pa.array(ids, lists), "labels": pa.array(labels, lists)})
        pq.write_table(table, draft / "tokens/test.parquet")
    return target


def chat_tokens(tokenizer, rows: list[dict]) -> list[tuple[list[int], list[int]]]:
    """Tokenise conversations; only the assistant's tokens carry loss."""
    pairs = []
    for row in rows:
        coded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        ids, mask = coded["input_ids"], coded["assistant_masks"]
        pairs.append((ids, [token if keep else -100 for token, keep in zip(ids, mask, strict=True)]))
    return pairs


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    rows = chat_rows(11)
    rows[3]["messages"].insert(0, {"role": "system", "content": LONG})
    rows[7]["messages"][1]["content"] = LONG
    rows.append({"messages": [*chat_rows(1)[0]["messages"], {"role": "user", "content": "And then?"}]})
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, rows) -> dict[str, Path]:
    """A base model, another tuned model, and chat data of 12 rows, the last one without an answer at its end."""
    folder = tmp_path_factory.mktemp("evaluate")
    other = folder / "other"
    build_model(other, initializer_range=0.4)  # so that the likeliest token is clear and differs from row to row
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tuned = as_artifact(other, folder / "tuned")
    with new_artifact(folder / "merged", "model") as draft:
        draft.same_as = "tuned"
    return {
        "base": as_artifact(tiny_model, folder / "base"),
        "tuned": tuned,
        "merged": folder / "merged",
        "data": write_data(folder / "data", "chat_completion", rows, chat_tokens(tokenizer, rows)),
    }


def settings(**changes) -> EvaluationSettings:
    changes = {"task": "chat_completion", "batch_size": 4, "evaluation": {"evaluation_max_new_tokens": 12}} | changes
    return EvaluationSettings(**changes)


def run(world: dict[str, Path], folder: Path, given: EvaluationSettings) -> tuple[bool, dict, list[dict]]:
    passed = evaluate(given, **world, evaluation=folder / "evaluation", report=folder / "report.html")
    metrics = json.loads((folder / "evaluation/metrics.json").read_text())
    return passed, metrics, pq.read_table(folder / "evaluation/predictions.parquet").to_pylist()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_losses_are_those_of_the_model_itself_row_by_row(world, batch_size):
    held_out = read_held_out(settings(), world["data"], world["base"])
    measured = measure(world["tuned"], held_out, settings(batch_size=batch_size))
    model = AutoModelForCausalLM.from_pretrained(world["tuned"], dtype=torch.float32).eval()
    sums, counts = [], []
    for ids, labels in zip(held_out.input_ids, held_out.labels, strict=True):
        ids, labels = torch.tensor(ids[None]).long(), torch.tensor(labels[None]).long()
        with torch.no_grad():
            sums.append(float(model(input_ids=ids, labels=labels).loss))  # transformers' own mean
            logits = model(input_ids=ids).logits[0, :-1]
        counts.append(int((labels[0, 1:] != -100).sum()))
        theirs = torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum")
        assert float(theirs) == pytest.approx(sums[-1] * counts[-1], rel=1e-5)
    assert measured.supervised.tolist() == counts
    assert measured.row_losses == pytest.approx(sums, rel=1e-5)


def test_batched_answers_equal_answers_one_at_a_time(world):
    given = settings(batch_size=5)
    held_out = read_held_out(given, world["data"], world["base"])
    batched = measure(world["tuned"], held_out, given).answers
    model = AutoModelForCausalLM.from_pretrained(world["tuned"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(world["tuned"])
    alone = []
    for row in read_rows(world)[:-1]:
        ids = tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
        alone.append(tokenizer.decode(greedy(model, ids, 12, tokenizer.eos_token_id), skip_special_tokens=True))
    assert batched == [*alone, None]
    assert len(set(alone)) > 3  # else the comparison would say little


def greedy(model, ids: torch.Tensor, most: int, end: int) -> list[int]:
    """Take the likeliest token again and again, without cache, batch or padding."""
    new: list[int] = []
    while len(new) < most and (not new or new[-1] != end):
        with torch.no_grad():
            new.append(int(model(input_ids=ids).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[new[-1]]])], dim=1)
    return new


def read_rows(world: dict[str, Path]) -> list[list[dict]]:
    rows = pq.read_table(world["data"] / "rows/test.parquet").to_pylist()
    return [[{"role": m["role"], "content": m["content"]} for m in row["messages"]] for row in rows]


def test_answers_stop_at_the_end_token(world, tmp_path):
    """A model that always says the same token: with that token as its end, every answer is empty."""
    model = AutoModelForCausalLM.from_pretrained(world["tuned"])
    tokenizer = AutoTokenizer.from_pretrained(world["tuned"])
    held_out = read_held_out(settings(), world["data"], world["base"])
    free = measure(world["tuned"], held_out, settings()).answers
    ids = tokenizer(held_out.prompts[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
    second = greedy(model, ids, 2, -1)[1]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, second]
    shutil.copytree(world["tuned"], tmp_path / "ends")
    model.generation_config.save_pretrained(tmp_path / "ends")
    short = measure(tmp_path / "ends", held_out, settings()).answers
    assert len(short[0]) < len(free[0])
    assert free[0].startswith(short[0].removesuffix(tokenizer.decode([second])))


def test_evaluate_writes_metrics_predictions_and_report(world, tmp_path):
    passed, metrics, rows = run(world, tmp_path, settings())
    assert metrics["rows"] == len(rows) == 12
    assert set(metrics) == {"base", "tuned", "rows", "gate"}
    assert set(metrics["base"]) == set(metrics["tuned"]) == set(choices_of(TextMetrics.model_fields["gate_metric"]))
    gate = metrics["gate"]
    assert (gate["base"], gate["tuned"]) == (metrics["base"]["loss"], metrics["tuned"]["loss"])
    assert passed is gate["passed"] is (gate["tuned"] < gate["base"])
    weights = [len([label for label in labels[1:] if label != -100]) for labels in labels_of(world)]
    for side in ("base", "tuned"):
        losses = [row[f"{side}_loss"] for row in rows]
        assert metrics[side]["loss"] == pytest.approx(np.average(losses, weights=weights))
        assert metrics[side]["perplexity"] == pytest.approx(np.exp(metrics[side]["loss"]))
    assert [row["row"] for row in rows] == list(range(12))
    assert rows[0]["prompt"] == "<|im_start|>user\nWhat comes after 0?<|im_end|><|im_start|>assistant\n"
    assert (rows[0]["reference"], rows[7]["reference"]) == ("1.", LONG)
    assert {key for key, value in rows[-1].items() if value is None} == {
        "prompt", "reference", "base", "tuned", "base_exact", "tuned_exact",
    }  # fmt: skip
    assert (tmp_path / "report.html").stat().st_size > 0
    manifest = read_manifest(tmp_path / "evaluation", "evaluation")
    digests = {name: read_manifest(world[name]).digest for name in ("base", "tuned", "data")}
    assert manifest.lineage["inputs"] == digests


def labels_of(world: dict[str, Path]) -> list[list[int]]:
    return pq.read_table(world["data"] / "tokens/test.parquet")["labels"].to_pylist()


def test_the_same_model_twice_does_not_beat_itself(world, tmp_path):
    passed, metrics, rows = run({**world, "tuned": world["base"]}, tmp_path, settings())
    assert not passed
    assert metrics["base"] == metrics["tuned"]
    assert all(row["base"] == row["tuned"] for row in rows)


def test_a_model_that_repeats_the_references_has_exact_match_one(world, tmp_path):
    """The references are what the tuned model says, so its text metrics are at their top."""
    given = settings(evaluation={"evaluation_max_new_tokens": 12, "gate_metric": "exact_match", "gate_min_value": 1})
    held_out = read_held_out(given, world["data"], world["base"])
    answers = measure(world["tuned"], held_out, given).answers
    rows = [
        {"messages": [*row[:-1], {"role": "assistant", "content": answer}]}
        for row, answer in zip(read_rows(world), answers, strict=True)
        if answer and answer.strip()
    ]
    assert len(rows) > 5
    tokenizer = AutoTokenizer.from_pretrained(world["base"])
    data = write_data(tmp_path / "data", "chat_completion", rows, chat_tokens(tokenizer, rows))
    passed, metrics, _ = run({**world, "data": data}, tmp_path, given)
    assert passed
    assert metrics["tuned"]["exact_match"] == 1.0
    assert metrics["tuned"]["bleu"] == pytest.approx(100)
    assert metrics["base"]["exact_match"] < 1


def test_only_the_first_rows_are_measured_when_a_bound_is_set(world, tmp_path):
    given = settings(evaluation={"evaluation_max_rows": 3, "evaluation_max_new_tokens": 4})
    _, metrics, rows = run(world, tmp_path, given)
    assert (metrics["rows"], len(rows)) == (3, 3)


@pytest.mark.parametrize("bound", [{}, {"gate_metric": "exact_match", "gate_min_value": 1}])
def test_the_result_is_the_verdict_of_the_gate_and_nothing_else(world, tmp_path, bound):
    gate = {"evaluation_max_rows": 2, "evaluation_max_new_tokens": 1, "gate_must_beat_base": False, **bound}
    passed, metrics, _ = run(world, tmp_path, settings(evaluation=gate))
    assert passed is metrics["gate"]["passed"] is (not bound)
    assert "register_tuned_model" not in EvaluationSettings.model_fields  # another wish is no reason to measure again


def test_merged_weights_are_measured_when_there_are_any(world, tmp_path):
    given = settings(evaluation={"evaluation_max_rows": 2, "evaluation_max_new_tokens": 2})
    adapter = as_artifact(Path(shutil.copytree(world["data"], tmp_path / "x")), tmp_path / "adapter", "adapter")
    _, expected, _ = run(world, tmp_path / "a", given)
    _, metrics, _ = run({**world, "tuned": adapter, "merged": world["tuned"]}, tmp_path / "b", given)
    assert metrics == expected


def test_bfloat16_is_near_float32(world, tmp_path):
    given = settings(precision="16", evaluation={"evaluation_max_new_tokens": 2})
    _, half, _ = run(world, tmp_path / "half", given)
    _, full, _ = run(world, tmp_path / "full", settings(evaluation={"evaluation_max_new_tokens": 2}))
    assert half["base"]["loss"] == pytest.approx(full["base"]["loss"], rel=0.02)
    assert half["base"]["loss"] != full["base"]["loss"]


def test_texts_without_answers_get_loss_and_perplexity_only(world, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(world["base"])
    raw = [{"text": f"The number {number} and nothing else."} for number in range(5)]
    tokens = [(ids, ids) for ids in (tokenizer(row["text"])["input_ids"] for row in raw)]
    data = write_data(tmp_path / "data", "text_generation", raw, tokens)
    given = settings(task="text_generation")
    _, metrics, rows = run({**world, "data": data}, tmp_path, given)
    assert set(metrics["tuned"]) == {"loss", "perplexity"}
    assert all(row["tuned"] is None and row["tuned_loss"] > 0 for row in rows)
    with pytest.raises(UserError, match="gate_metric"):
        run(
            {**world, "data": data},
            tmp_path,
            given.model_copy(update={"evaluation": EvaluationParams(gate_metric="bleu")}),
        )


def test_prompts_with_the_text_that_should_follow_are_answered(world, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(world["base"])
    raw = [{"q": f"Count to {number}:", "a": f" {number}"} for number in range(5)]
    ids = [tokenizer(row["q"] + row["a"])["input_ids"] for row in raw]
    data = write_data(
        tmp_path / "data", "text_generation", raw, [(i, i) for i in ids], text_key="q", ground_truth_key="a"
    )
    _, metrics, rows = run({**world, "data": data}, tmp_path, settings(task="text_generation"))
    assert [row["prompt"] for row in rows] == [row["q"] for row in raw]
    assert "bleu" in metrics["tuned"]


def test_a_document_gets_the_prompt_form_of_the_training(world, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(world["base"])
    raw = [{"document": f"The fox jumps {number} times over the dog.", "summary": "It jumps."} for number in range(5)]
    ids = [tokenizer(f"Short: {row['document']} ->{row['summary']}")["input_ids"] for row in raw]
    data = write_data(tmp_path / "data", "summarization", raw, [(i, i) for i in ids])
    given = settings(task="summarization", columns={"prompt_prefix": "Short: ", "text_separator": " ->"})
    _, metrics, rows = run({**world, "data": data}, tmp_path, given)
    assert [row["prompt"] for row in rows] == [f"Short: {row['document']} ->" for row in raw]
    assert {"rougeL", "rougeLsum", "bleu", "chrf", "exact_match", "word_f1"} <= set(metrics["tuned"])


def test_the_datas_chat_template_wins_over_the_models(world, tmp_path):
    data = Path(shutil.copytree(world["data"], tmp_path / "data"))
    (data / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}->")
    held_out = read_held_out(settings(), data, world["base"])
    assert held_out.prompts[0] == "[What comes after 0?]->"


def test_long_prompts_lose_their_start_and_leave_room_for_an_answer(tmp_path, world):
    build_model(tmp_path / "short", max_position_embeddings=16)
    given = settings(evaluation={"evaluation_max_new_tokens": 100})
    held_out = read_held_out(given, world["data"], world["base"])
    answers = measure(tmp_path / "short", held_out, given).answers
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "short")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "short")
    ids = tokenizer(held_out.prompts[3], add_special_tokens=False, return_tensors="pt")["input_ids"][:, -8:]
    assert answers[3] == tokenizer.decode(greedy(model, ids, 8, tokenizer.eos_token_id), skip_special_tokens=True)


def test_a_model_of_nan_ends_with_the_metrics_name_and_no_artifact(world, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(world["tuned"])
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "plain")
    build_tokenizer(tmp_path / "plain")
    with pytest.raises(NumericError, match="loss of the tuned model"):
        run({**world, "tuned": as_artifact(tmp_path / "plain", tmp_path / "nan")}, tmp_path, settings())
    assert not (tmp_path / "evaluation").exists()


def test_changed_weights_are_not_measured(world, tmp_path):
    tuned = Path(shutil.copytree(world["tuned"], tmp_path / "tuned"))
    with open(tuned / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(Outage, match=r"model\.safetensors with other content"):
        run({**world, "tuned": tuned}, tmp_path, settings())


def test_a_plain_model_folder_without_manifest_can_be_measured(world, tmp_path, tiny_model):
    given = settings(evaluation={"evaluation_max_rows": 1, "evaluation_max_new_tokens": 1})
    assert not (tiny_model / MANIFEST).exists()
    _, metrics, _ = run({**world, "base": tiny_model}, tmp_path, given)
    assert metrics["rows"] == 1
    with pytest.raises(Outage, match=r"no manifest\.json"):
        run({**world, "base": tmp_path}, tmp_path, given)


def test_missing_test_rows_are_reported(world, tmp_path):
    with pytest.raises(UserError, match="evaluation_max_rows"):
        run(world, tmp_path, settings(evaluation={"evaluation_max_rows": 0}))
    data = write_data(tmp_path / "data", "chat_completion", chat_rows(1), [([1, 2], [-100, -100])])
    with pytest.raises(UserError, match="none of which has a token with loss"):
        run({**world, "data": data}, tmp_path, settings())


def test_a_long_text_in_a_prompt_form_is_truncated_and_the_form_is_kept(tmp_path):
    from steps.generation.generating import answers
    from steps.register_model.pyfunc_model import CausalModel

    build_model(tmp_path, max_position_embeddings=64)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    long = "The quick brown fox jumps over the lazy dog. " * 20
    whole = tokenizer(f"summarize: {long}\n")["input_ids"]
    cut = torch.tensor([whole[:53] + whole[-1:]])
    said = model.generate(cut, max_new_tokens=10, do_sample=False)[0, 54:]
    wanted = tokenizer.decode(said, skip_special_tokens=True)
    how = {"rendered": False, "max_new_tokens": 10, "batch_size": 1}
    assert answers(model, tokenizer, [f"summarize: {long}\n"], ending="\n", **how) == [wanted]
    served = CausalModel()
    served.model, served.tokenizer = model, tokenizer
    form = ["summarize: ", "\n"]
    served.reference = {"task": "summarization", "chat": False, "prompt_form": form, "max_new_tokens": 10}
    assert served.predict(None, [long]) == [wanted]
