"""Messages name parameters as the pipeline does: in the plan, in a step, and in warnings."""

import json
from types import SimpleNamespace

import pytest
from conftest import write_jsonl

import steps.running as running
from steps.errors import OutOfResources, Problem, UserError
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.pipelines.grpo_chat_completion import GrpoChatCompletionParameters
from steps.params.pipelines.verl_finetune import VerlFinetuneParameters
from steps.params.reading import read_parameters
from steps.params.settings import DataSettings, FinetuneSettings
from steps.params.verl_training import COMPUTED, PHRASES, SAME
from steps.params.worded import names_of
from steps.params.wording import in_words, in_words_of, told, with_values
from steps.plan.deciding import decide
from steps.plan.settings import settings_of
from steps.prepare_data.step import prepare_data

VERL = names_of("verl_finetune")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("raise max_prompt_length, or set length_handling=truncate",
         "raise data_max_prompt_length, or set data_filter_overlong_prompts=false and data_truncation=left"),
        ("lower learning_rate, or raise warmup_steps",
         "lower actor_optim_lr, or raise actor_optim_lr_warmup_steps_ratio"),
        ("lower learning_rate, or set precision=32", "lower actor_optim_lr"),
        ("add rows, or lower per_device_train_batch_size or gradient_accumulation_steps",
         "add rows, or lower data_train_batch_size, and actor_ppo_mini_batch_size with it"),
        ("set top_p=0.9, or a higher temperature", "set rollout_top_p=0.9, or a higher temperature"),
        ("a multiple of num_generations=4", "a multiple of rollout_n=4"),
        # Another number is counted there, so that the value would be wrong.
        ("set gradient_accumulation_steps=8", "set gradient_accumulation_steps=8"),
        # Words of the user, and of verl itself.
        ("no column 'learning_rate'", "no column 'learning_rate'"),
        ("nothing at rows/train_file_path.jsonl", "nothing at rows/train_file_path.jsonl"),
        ("data_max_prompt_length is actor_optim_lr", "data_max_prompt_length is actor_optim_lr"),
    ],
)  # fmt: skip
def test_a_sentence_has_the_names_of_verl(sentence, expected):
    assert in_words(sentence, VERL) == expected
    assert in_words(expected, VERL) == expected, "said twice"


def test_every_name_told_is_a_parameter_of_its_pipeline():
    for name in {*SAME, *COMPUTED}:
        own = told(Problem("X", name, "", "", ""), VERL).where
        assert own in VerlFinetuneParameters.model_fields, name
    named = [
        word for text in PHRASES.values() for word in text.replace(",", " ").replace("=", " ").split() if "_" in word
    ]
    assert named
    assert set(named) <= set(VerlFinetuneParameters.model_fields)
    for pipeline, model in PARAMETER_MODELS.items():
        if pipeline != "verl_finetune":
            assert {own.rstrip("=") for own in model.other_names().values()} <= set(model.model_fields)


def test_an_error_keeps_its_class_and_its_notes_are_told_too():
    error = OutOfResources(Problem("A", "train_file_path", "f", "e", "set top_k=5", why="max_prompt_length is 3"))
    error.add_note("validation_file_path is not read")
    with pytest.raises(OutOfResources) as caught, in_words_of(VERL):
        raise error
    assert str(caught.value) == (
        "A data_train_files: found f; expected e, because data_max_prompt_length is 3. Fix: set rollout_top_k=5."
    )
    assert caught.value.__notes__ == ["data_val_files is not read"]


def test_parameters_that_contradict_each_other_are_told_by_their_names():
    with pytest.raises(UserError) as caught:
        read_parameters("verl_finetune", {"huggingface_id": "a/b"})
    [problem] = caught.value.problems
    assert (problem.where, "data_train_files" in problem.fix) == ("data_train_files", True)
    assert "train_file_path" not in str(problem)


def test_the_rows_of_grpo_are_told_by_the_name_that_was_set():
    def names(**given):
        given = {"huggingface_id": "a/b", **given}
        return read_parameters("grpo_chat_completion", given).parameters.names_told

    assert names(dataset_train_split="a.jsonl")["train_file_path"] == "dataset_train_split"
    assert "train_file_path" not in names(train_file_path="a.jsonl")
    both = names(dataset_name="d", dataset_train_split="learn", dataset_validation_split="held")
    assert both["dataset_split"] == "dataset_train_split"
    assert not {"dataset_validation_split", "train_file_path"} & set(both)
    assert "dataset_split" not in names(dataset_name="d")
    for p in (GrpoChatCompletionParameters, names(train_file_path="a.jsonl")):
        assert (p.other_names() if isinstance(p, type) else p)["evaluation_strategy="] == "eval_strategy="


def test_prompts_of_a_prompt_conf_are_told_by_it(tmp_path):
    conf = {"type": "eval-data", "data": {"path": str(tmp_path / "none.jsonl")}}
    assert BatchInferenceParameters(huggingface_id="a/b", prompt_conf=conf).names_told == {
        "test_file_path": "prompt_conf"
    }
    assert BatchInferenceParameters(huggingface_id="a/b", test_file_path="a.jsonl").names_told == {}
    from steps.plan.batch_inference import decide as decide_batch

    given = {"endpoint_url": "http://localhost:1", "inference_type": "endpoint", "prompt_conf": conf}
    with pytest.raises(UserError) as caught:
        decide_batch("batch_inference", given)
    assert [problem.where for problem in caught.value.problems if "none.jsonl" in problem.found] == ["prompt_conf"]


def test_a_step_tells_its_errors_in_the_words_of_its_pipeline(monkeypatch):
    def step(settings: FinetuneSettings) -> None:
        raise UserError(Problem("A", "batch", "f", "e", "lower per_device_train_batch_size or learning_rate"))

    monkeypatch.setitem(running.STEPS, "broken", "somewhere:step")
    monkeypatch.setattr(running.importlib, "import_module", lambda name: SimpleNamespace(step=step))
    for pipeline, fix in (
        ("verl_finetune", "lower actor_ppo_micro_batch_size_per_gpu or actor_optim_lr"),
        ("chat_completion", "lower per_device_train_batch_size or learning_rate"),
    ):
        with pytest.raises(UserError) as caught:
            running.attempt("broken", settings=json.dumps({"pipeline": pipeline}))
        assert caught.value.problems[0].fix == fix


FEW: dict[str, object] = {
    "ENGINE": "trl", "number_of_gpu_to_use_finetuning": 0, "data_train_batch_size": 4, "actor_ppo_mini_batch_size": 4,
    "actor_ppo_micro_batch_size_per_gpu": 2, "rollout_n": 2, "data_max_response_length": 8,
    "data_max_prompt_length": 64, "trainer_total_epochs": 1, "question_key": "q", "answer_key": "a",
    "data_source": "openai/gsm8k", "min_train_rows": 1,
}  # fmt: skip


@pytest.fixture
def settings(tiny_model, tmp_path, monkeypatch):
    """A function that plans a training with verl's parameters and returns the settings of prepare_data."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    rows = [{"q": f"what is {n} + {n}?", "a": f"#### {2 * n}"} for n in range(44)]
    held, rows = rows[:4], rows[4:]
    files = {"data_train_files": write_jsonl(tmp_path / "t.jsonl", rows),
             "data_val_files": write_jsonl(tmp_path / "v.jsonl", held)}  # fmt: skip
    given = {**FEW, "pytorch_model_path": str(tiny_model), **{name: str(file) for name, file in files.items()}}

    def made(**changes) -> DataSettings:
        data = settings_of(decide("verl_finetune", {**given, **changes}))["data"]
        assert isinstance(data, DataSettings)
        return data

    return made


def prepared(data: DataSettings, tiny_model, tmp_path):
    arguments = {"tokenizer": str(tiny_model), "data": str(tmp_path / "data"), "report": str(tmp_path / "data.html")}
    return running.attempt("prepare-data", settings=data.model_dump_json(), **arguments)


def test_prepare_data_names_the_files_of_verl(settings, tiny_model, tmp_path):
    data = settings()
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(UserError) as caught:
        prepared(data, tiny_model, tmp_path)
    assert [problem.where for problem in caught.value.problems] == ["data_train_files"]


def test_prepare_data_advises_with_parameters_of_verl(settings, tiny_model, tmp_path):
    with pytest.raises(UserError) as caught:
        prepared(settings(data_max_prompt_length=2), tiny_model, tmp_path)
    fixes = {problem.fix for problem in caught.value.problems if problem.code == "DATA-E0820"}
    assert fixes == {"raise data_max_prompt_length, or set data_filter_overlong_prompts=false and data_truncation=left"}


def test_prepare_data_warns_with_names_of_verl(settings, tiny_model, tmp_path):
    data = settings(dataset_name="some/set", dataset_revision="0" * 40, dataset_validation_split="held")
    told_of = [warning["what"] for warning in prepared(data, tiny_model, tmp_path).facts["warnings"]]
    assert any(what.startswith("data_train_files takes precedence over dataset_name") for what in told_of), told_of
    assert not [what for what in told_of if "train_file_path" in what]


def test_other_pipelines_have_no_names_in_their_settings(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    rows = write_jsonl(tmp_path / "t.jsonl", [{"text": f"a text about {n}"} for n in range(40)])
    made = settings_of(decide("text_generation", {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows)}))
    for name in ("data", "evaluation"):
        assert "named_by" not in made[name].short(), "its tasks would be missed in the cache"
    assert with_values({}) == {}
    assert prepare_data.__name__ in running.STEPS["prepare-data"]
