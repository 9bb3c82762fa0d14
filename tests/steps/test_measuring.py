"""The step measure: what it says of a tuned model is what evaluate says, on validation rows as on test rows."""

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from classifiers import build_bert, label_rows
from conftest import build_model, chat_rows, write_jsonl
from encoder_decoders import build_t5
from encoder_decoders import pairs as translations
from grids import long_but
from input_adapters import import_settings
from merge_inputs import change_tensors, make_adapter
from preferences import pair_rows, rated_rows
from training_inputs import TRAINING, as_imported, train

from steps.__main__ import main
from steps.artifacts import new_artifact, read_manifest
from steps.errors import NumericError, Outage, UserError
from steps.evaluate.before import model_after
from steps.evaluate.held_out import first_rows
from steps.evaluate.measuring import measure
from steps.evaluate.step import evaluate
from steps.import_model.step import import_model
from steps.merge_adapter.step import merge_adapter
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, Resolved
from steps.params.splits import VALIDATION_BY_ROW
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

TAGS = {"pear": "B-FRUIT", "oven": "B-THING"}


def tagged_rows(count: int) -> list[dict]:
    words = [["the", ("pear", "oven", "a")[number % 3], str(1000 + number)] for number in range(count)]
    return [{"tokens": one, "tags": [TAGS.get(word, "O") for word in one]} for one in words]


def questions(count: int) -> list[dict]:
    rows = []
    for number in range(count):
        before = f"the and {number} "
        answers = {"text": ["pear"], "answer_start": [len(before)]} if number % 4 else {"text": [], "answer_start": []}
        rows.append(
            {"question": "the red", "context": f"{before}{'pear' if number % 4 else 'a'} .", "answers": answers}
        )
    return rows


@dataclass(frozen=True)
class Case:
    """A kind of model and what it learns; the validation rows are the test rows."""

    build: object
    rows: list[dict]
    task: str
    kind: str = "causal_lm"
    metric: str = "loss"
    method: str = "supervised"
    lora: dict = field(default_factory=lambda: {"apply_lora": True})
    columns: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    trained: dict = field(default_factory=dict)
    by_row: bool = False


PREFERENCE = {"task": "preference", "metric": "reward_accuracy", "method": "dpo"}
FULL = {"apply_lora": False}
LABELS = {"task": "text_classification", "kind": "sequence_classification", "metric": "f1_macro",
          "columns": {"sentence1_key": "text", "label_key": "kind"}}  # fmt: skip
PACKED = {"data": {"preprocessing": {"packing": True}}, "trained": {"packing": True}, "by_row": True}
TEXTS = [{"text": f"the {word} and a {other} ."} for word in ("pear", "oven", "red", "green") for other in range(8)]
CASES = {
    "causal, LoRA": Case(build_model, chat_rows(32), "chat_completion", metric="exact_match"),
    "causal, full": Case(build_model, chat_rows(32), "chat_completion", lora=FULL),
    "causal, packed": Case(build_model, chat_rows(32), "chat_completion", metric="bleu", **PACKED),
    "prompt tuning": Case(build_model, chat_rows(32), "chat_completion",
                          lora={"apply_lora": True, "peft_type": "prompt_tuning", "num_virtual_tokens": 4}),
    "labels, LoRA": Case(build_bert, label_rows(32), **LABELS),
    "labels, full": Case(build_bert, label_rows(32), lora=FULL, **LABELS),
    "label sets": Case(build_bert, label_rows(32, several=True),
                       **LABELS | {"columns": {**LABELS["columns"], "multilabel": True}}),
    "tags": Case(build_bert, tagged_rows(32), "token_classification", "token_classification", "f1"),
    "answers in contexts": Case(build_bert, questions(32), "question_answering", "question_answering", "f1",
                                columns={"doc_stride": 4}),
    "translations": Case(build_t5, translations(32), "translation", "seq2seq_lm", "chrf",
                         columns={"source_lang": "en", "target_lang": "de", "text_separator": "",
                                  "prompt_prefix": "auto"}),
    "masked": Case(build_bert, TEXTS, "pretraining", "masked_lm", "masked_accuracy", lora=FULL,
                   columns={"mlm_probability": 0.3}),
    "masked, packed": Case(build_bert, TEXTS, "pretraining", "masked_lm", lora=FULL,
                           columns={"mlm_probability": 0.3}, **PACKED),
    "pairs": Case(build_model, pair_rows(32), **PREFERENCE),
    "pairs, full": Case(build_model, pair_rows(32), lora=FULL, **PREFERENCE),
    "pairs, without reference": Case(build_model, pair_rows(32), trained={"preference": {"method": "orpo"}},
                                     **PREFERENCE),
    "pairs as rated answers": Case(build_model, pair_rows(32), data={"unpairs": True}, by_row=True,
                                   trained={"preference": {"method": "kto", "kto_rows": "pairs"}}, **PREFERENCE),
    "rated answers": Case(build_model, rated_rows(32), trained={"preference": {"method": "kto"}},
                          **PREFERENCE | {"task": "kto"}),
}  # fmt: skip


def prepared(case: Case, base: Path, folder: Path) -> Path:
    parts = {"train": case.rows[:-12], "validation": case.rows[-12:], "test": case.rows[-12:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    given = {"task": case.task, "kind": case.kind, "method": case.method, "columns": case.columns, "max_length": 48}
    prepare_data(DataSettings(**given, **sources, **case.data), base, folder / "data", folder / "data.html")
    return folder / "data"


def trained(case: Case, base: Path, data: Path, out: Path) -> Path:
    training = {**TRAINING, "max_steps": 3, "learning_rate": 2e-2, "evaluation_strategy": "no"}
    preference = {"preference": {"method": "dpo"}} if case.method == "dpo" else {}
    train(
        FinetuneSettings(pipeline="any", kind=case.kind, training=training, lora=case.lora, max_length=48,
                         **preference | case.trained),
        base, data, out,
    )  # fmt: skip
    return out / "tuned"


def settings_of(case: Case, **changes) -> EvaluationSettings:
    evaluation = {"gate_metric": case.metric, "evaluation_max_new_tokens": 4, **changes.pop("evaluation", {})}
    given = {"task": case.task, "kind": case.kind, "method": case.method, "columns": case.columns, "batch_size": 4}
    return EvaluationSettings(**given, evaluation=evaluation, **changes)


def evaluated(settings: EvaluationSettings, base: Path, tuned: Path, data: Path, out: Path) -> dict:
    merge_adapter(base, tuned, out / "merged")
    evaluate(settings, base, tuned, out / "merged", data, out / "evaluation")
    return json.loads((out / "evaluation/metrics.json").read_text())


# Every kind of model and rows; the others differ in what is trained.
KINDS = ("causal, LoRA", "causal, packed", "labels, full", "tags", "answers in contexts", "translations",
         "masked, packed", "pairs", "rated answers")  # fmt: skip


@pytest.mark.parametrize("name", long_but(KINDS, CASES))
def test_the_measured_values_are_those_of_evaluate_bit_by_bit(tmp_path, caplog, name):
    case = CASES[name]
    case.build(tmp_path / "source")
    base = as_imported(tmp_path / "source", tmp_path / "model")
    data = prepared(case, base, tmp_path)
    assert (data / VALIDATION_BY_ROW).is_file() is case.by_row
    tuned = trained(case, base, data, tmp_path / "ours")
    told = {}
    for split in ("test", "validation"):
        settings = settings_of(case, split=split)
        told[split] = evaluated(settings, base, tuned, data, tmp_path / split)
        caplog.clear()
        with caplog.at_level(logging.INFO, "finetune"):
            found = measure(settings, base, tuned, data, tmp_path / "scratch")
        theirs = told[split]["tuned"]
        assert found == {"metrics": theirs, "score": theirs[case.metric], "rows": 12}
        assert json.loads(json.dumps(found)) == found
        loads = [line for line in caplog.messages if line.startswith("measured ")]
        assert len(loads) == (2 if case.method == "dpo" else 1)  # the reference of the rewards
        assert not list(tmp_path.glob("scratch/*"))
        assert theirs["loss"] != told[split]["base"]["loss"]
    if case.task == "kto":  # its validation rows are shuffled
        assert told["validation"]["tuned"] == pytest.approx(told["test"]["tuned"])
    elif case.kind != "masked_lm":  # which has masks of its own in each split
        assert told["validation"]["tuned"] == told["test"]["tuned"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.by_row])
def test_validation_rows_that_are_trained_on_in_another_form_have_the_tokens_of_a_split_that_is_not(tmp_path, name):
    case = CASES[name]
    case.build(tmp_path / "source")
    base = as_imported(tmp_path / "source", tmp_path / "model")
    (tmp_path / "plain").mkdir()
    ours, plain = prepared(case, base, tmp_path), prepared(replace(case, data={}), base, tmp_path / "plain")
    assert not (plain / VALIDATION_BY_ROW).exists()
    theirs = pq.read_table(plain / "tokens/validation.parquet")
    assert pq.read_table(ours / VALIDATION_BY_ROW).to_pylist() == theirs.to_pylist()
    assert pq.read_table(ours / "tokens/validation.parquet").schema != theirs.schema or case.kind == "masked_lm"


@pytest.fixture
def world(tmp_path) -> dict:
    """A base, a tuned model, and data whose test rows are not its validation rows."""
    case = replace(CASES["causal, full"], rows=chat_rows(44))
    build_model(tmp_path / "source")
    build_model(tmp_path / "other", initializer_range=0.4)
    base = as_imported(tmp_path / "source", tmp_path / "model")
    return {"base": base, "tuned": as_imported(tmp_path / "other", tmp_path / "tuned"),
            "data": prepared(case, base, tmp_path)}  # fmt: skip


@pytest.mark.parametrize("kind", ["zeros", "too small"])
def test_an_adapter_that_changes_no_weight_is_measured_as_the_base(world, tmp_path, kind):
    adapter = make_adapter(tmp_path / "source", tmp_path / "adapter")
    change_tensors(adapter, lambda tensors: {name: value * (0 if kind == "zeros" else 1e-12)
                                             for name, value in tensors.items()})  # fmt: skip
    with model_after(world["base"], adapter, tmp_path / "scratch") as folder:
        assert folder == world["base"]
    settings = settings_of(CASES["causal, full"], split="validation")
    expected = measure(settings, world["base"], world["base"], world["data"], tmp_path / "scratch")
    assert measure(settings, world["base"], adapter, world["data"], tmp_path / "scratch") == expected


@pytest.mark.parametrize("given", ["an adapter to continue", "a reference"])
def test_rewards_are_measured_against_what_evaluate_compares_with(tmp_path, given):
    case = CASES["pairs"]
    build_model(tmp_path / "source")
    build_model(tmp_path / "other", num_hidden_layers=1)
    adapter = make_adapter(tmp_path / "source", tmp_path / "adapter") if given == "an adapter to continue" else None
    more = {} if adapter else {"reference": tmp_path / "other"}
    import_model(import_settings(tmp_path / "source", adapter, "continue", **more), tmp_path / "model", tmp_path / "t")
    data = prepared(case, tmp_path / "model", tmp_path)
    tuned = trained(case, tmp_path / "model", data, tmp_path / "ours")
    told = evaluated(settings_of(case), tmp_path / "model", tuned, data, tmp_path / "told")
    found = measure(settings_of(case), tmp_path / "model", tuned, data, tmp_path / "scratch")
    assert found["metrics"] == told["tuned"]
    assert told["preferences"]["own_reference"] is (adapter is None)


def test_packed_rows_without_loss_are_left_out_as_in_a_test_split(tmp_path):
    rows = chat_rows(240)
    rows[-7]["messages"][0]["content"] = "The quick brown fox jumps over the lazy dog. " * 20
    parts = {"train": rows[:120], "validation": rows[120:], "test": rows[120:]}
    files = {name: write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    given = {"packing": True, "train_on_completions_only": True}
    build_model(tmp_path / "model")
    settings = DataSettings(task="chat_completion", max_length=48, preprocessing=given, **sources)
    prepare_data(settings, tmp_path / "model", tmp_path / "data", tmp_path / "data.html")
    for most, count in ((-1, 119), (115, 115), (3, 3)):
        bound = {"evaluation_max_rows": most}
        theirs, ours = (
            first_rows(settings_of(CASES["causal, packed"], split=split, evaluation=bound), tmp_path / "data")
            for split in ("test", "validation")
        )
        assert [table.to_pylist() for table in ours] == [table.to_pylist() for table in theirs]
        assert len(ours[0]) == count


def test_a_plain_folder_is_measured_as_a_whole_model(world, tmp_path):
    settings = settings_of(CASES["causal, full"], split="validation")
    expected = measure(settings, **world, scratch=tmp_path / "s")
    assert measure(settings, tmp_path / "source", tmp_path / "other", world["data"], tmp_path / "s") == expected


def test_the_split_is_the_one_that_is_read(world, tmp_path):
    table = pq.read_table(world["data"] / "rows/validation.parquet")
    with new_artifact(tmp_path / "fewer", "data") as draft:
        shutil.copytree(world["data"], draft.path, dirs_exist_ok=True)
        pq.write_table(table.slice(0, 5), draft / "rows/validation.parquet")
        tokens = pq.read_table(world["data"] / "tokens/validation.parquet")
        pq.write_table(tokens.slice(0, 5), draft / "tokens/validation.parquet")
    counts = {}
    for split in ("test", "validation"):
        settings = settings_of(CASES["causal, full"], split=split)
        counts[split] = measure(settings, world["base"], world["tuned"], tmp_path / "fewer", tmp_path / "s")["rows"]
    assert counts == {"test": 12, "validation": 5}


def emptied(data: Path, folder: Path, split: str, gone: bool) -> Path:
    """Copy data, the rows of a split left out, or its files."""
    with new_artifact(folder, "data") as draft:
        shutil.copytree(data, draft.path, dirs_exist_ok=True)
        draft.facts = read_manifest(data).facts
        for part in ("rows", "tokens"):
            file = draft / f"{part}/{split}.parquet"
            nothing = pq.read_table(file).slice(0, 0)
            file.unlink()
            if not gone:
                pq.write_table(nothing, file)
    return folder


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "absent"])
@pytest.mark.parametrize(
    ("split", "fix"),
    [("validation", "set validation_file_path, or auto_split=true"), ("test", "provide test rows, or leave")],
)
@pytest.mark.parametrize("name", ["causal, full", "answers in contexts", "labels, full", "pairs"])
def test_a_split_without_rows_is_named_with_the_fix(world, tmp_path, name, split, fix, gone):
    case = replace(CASES[name], lora=FULL)
    data = world["data"]
    if case.build is build_bert:
        build_bert(tmp_path / "bert")
        (tmp_path / "b").mkdir()
        data = prepared(case, tmp_path / "bert", tmp_path / "b")
    settings = settings_of(case, split=split)
    with pytest.raises(UserError, match=f"EVAL-E0201 {split}_file_path: found no {split} row.*{fix}"):
        measure(settings, world["base"], world["tuned"], emptied(data, tmp_path / "empty", split, gone), tmp_path / "s")


def test_a_bound_of_no_rows_is_blamed_rather_than_the_split(world, tmp_path):
    settings = settings_of(CASES["causal, full"], split="validation", evaluation={"evaluation_max_rows": 0})
    with pytest.raises(UserError, match="EVAL-E0201 evaluation_max_rows: found no validation row"):
        measure(settings, **world, scratch=tmp_path / "s")


RATED = rated_rows(64)
OUTSIDE = [{"tokens": ["a", str(number)], "tags": ["O", "O"]} for number in range(12)]
# The last twelve rows of a case cannot give its metric a value.
UNMEASURABLE = {
    "no answers": (
        "causal, full", {"task": "text_generation", "rows": TEXTS, "metric": "bleu"},
        "EVAL-E0203 .*bleu for validation rows without a right answer.*use validation rows that end",
    ),
    "one class": (
        "labels, full", {"rows": [*label_rows(32), *[label_rows(33)[-1]] * 12], "metric": "mcc"},
        "EVAL-E0206 .*mcc, which has no value for tuned: every validation row is",
    ),
    "no entity": (
        "tags", {"rows": [*tagged_rows(32), *OUTSIDE]},
        "EVAL-E0206 .*f1, which has no value for tuned: no validation row contains an entity",
    ),
    "one kind of question": (
        "answers in contexts", {"rows": [row for row in questions(40) if row["answers"]["text"]], "metric": "NoAns_f1"},
        "EVAL-E0206 .*NoAns_f1, which has no value, as no validation question is of this kind",
    ),
    "one kind of answer": (
        "rated answers",
        {"rows": [*RATED[:32], *[row for row in RATED[32:] if row["label"]][:12]], "metric": "reward_auc"},
        "EVAL-E0208 .*reward_auc for validation rows that are all good.*use validation rows of both",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNMEASURABLE)
def test_messages_name_the_split_that_was_read(tmp_path, name):
    of, changes, words = UNMEASURABLE[name]
    case = replace(CASES[of], **changes)
    case.build(tmp_path / "source")
    base = as_imported(tmp_path / "source", tmp_path / "model")
    data = prepared(case, base, tmp_path)
    tuned = trained(case, base, data, tmp_path / "ours")
    with pytest.raises(UserError, match=words):
        measure(settings_of(case, split="validation"), base, tuned, data, tmp_path / "s")


@pytest.mark.parametrize(("name", "lacks"), [("causal, full", "a token with loss"), ("masked", "a masked token")])
def test_rows_without_a_label_are_refused_with_the_parameter_of_their_split(world, tmp_path, name, lacks):
    with new_artifact(tmp_path / "silent", "data") as draft:
        shutil.copytree(world["data"], draft.path, dirs_exist_ok=True)
        file = draft / "tokens/validation.parquet"
        tokens = pq.read_table(file)
        labels = pa.array([[-100] * len(row) for row in tokens["labels"].to_pylist()], pa.list_(pa.int32()))
        pq.write_table(tokens.set_column(1, "labels", labels), file)
    settings = settings_of(CASES[name], split="validation")
    with pytest.raises(UserError, match=f"validation_file_path: found 12 validation rows, none of which has {lacks}"):
        measure(settings, world["base"], world["tuned"], tmp_path / "silent", tmp_path / "s")


def test_a_model_of_nan_and_a_changed_one_are_refused_as_by_evaluate(world, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world["tuned"])
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    shutil.copytree(tmp_path / "other", tmp_path / "plain")
    model.save_pretrained(tmp_path / "plain")
    settings = settings_of(CASES["causal, full"], split="validation")
    nan = as_imported(tmp_path / "plain", tmp_path / "nan")
    with pytest.raises(NumericError, match="loss of the tuned model"):
        measure(settings, world["base"], nan, world["data"], tmp_path / "s")
    with open(world["tuned"] / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(Outage, match=r"model\.safetensors with other content"):
        measure(settings, world["base"], world["tuned"], world["data"], tmp_path / "s")


def test_only_the_metrics_that_are_asked_for_are_returned_with_the_loss_and_the_score(world, tmp_path):
    options = {"metrics": ["chrf", "rougeL"]}
    settings = settings_of(replace(CASES["causal, full"], metric="bleu"), split="validation", options=options)
    found = measure(settings, **world, scratch=tmp_path / "s")
    assert set(found["metrics"]) == {"loss", "bleu", "chrf", "rougeL"}
    assert found["score"] == found["metrics"]["bleu"]


def test_the_command_prints_what_it_measured(world, tmp_path, capsys):
    settings = settings_of(CASES["causal, full"], split="validation")
    places = [f"--{name}={folder}" for name, folder in {**world, "scratch": tmp_path / "s"}.items()]
    main(["measure", *places, "--settings", settings.model_dump_json()])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == measure(settings, **world, scratch=tmp_path / "s")
