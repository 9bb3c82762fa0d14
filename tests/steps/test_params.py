"""Parameters: one declaration, all problems together, renamed names and values are accepted."""

from pathlib import Path

import pytest

from pipelines.catalog import PIPELINES
from pipelines.kfp_values import our_value
from steps.errors import SecurityRefusal, StepError, UserError
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters

ENOUGH = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}

# Name and default of every input of the finetune component that applies to these pipelines.
SEED_DEFAULTS = {
    "pytorch_model_path": "", "mlflow_model_path": "", "train_file_path": "", "validation_file_path": "",
    "test_file_path": "", "train_mltable_path": "", "validation_mltable_path": "", "test_mltable_path": "",
    "compute_model_import": "serverless", "compute_preprocess": "serverless", "compute_finetune": "serverless",
    "compute_model_evaluation": "serverless", "instance_type_model_import": "Standard_d12_v2",
    "instance_type_preprocess": "Standard_d12_v2", "instance_type_finetune": "Standard_nc24rs_v3",
    "instance_type_model_evaluation": "Standard_nc24rs_v3", "number_of_gpu_to_use_finetuning": 1,
    "num_nodes_finetune": 1, "batch_size": 1000, "max_seq_length": -1, "pad_to_max_length": False,
    "apply_lora": False, "lora_alpha": 128, "lora_r": 8, "lora_dropout": 0.0, "apply_deepspeed": False,
    "deepspeed": "true", "deepspeed_stage": "2", "num_train_epochs": 1, "max_steps": -1,
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "auto_find_batch_size": False,
    "learning_rate": 2e-5, "lr_scheduler_type": "linear", "warmup_steps": 0, "optim": "adamw_hf",
    "weight_decay": 0.0, "gradient_accumulation_steps": 1, "precision": "32", "seed": 42,
    "evaluation_strategy": "epoch", "eval_steps": 500, "logging_strategy": "steps", "logging_steps": 10,
    "save_total_limit": -1, "apply_early_stopping": False, "early_stopping_patience": 1, "max_grad_norm": 1.0,
    "resume_from_checkpoint": "false",
}  # fmt: skip
# Values that the component allows, where it lists them.
SEED_CHOICES = {
    "deepspeed_stage": {"2", "3"}, "optim": {"adamw_hf", "adamw_torch", "adafactor"}, "precision": {"16", "32"},
    "lr_scheduler_type": {
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    },
    "evaluation_strategy": {"epoch", "steps"}, "logging_strategy": {"epoch", "steps"},
}  # fmt: skip


# Those with rewards have the inputs of other components (tests/pipelines/test_grpo_pipeline.py, test_verl_pipeline.py).
OF_OTHERS = ("grpo_chat_completion", "verl_finetune")
OF_FINETUNE = [name for name, one in PIPELINES.items() if one.trains and name not in OF_OTHERS]


@pytest.mark.parametrize("pipeline", OF_FINETUNE)
def test_every_input_of_the_finetune_component_is_there_with_its_default(pipeline):
    fields = PARAMETER_MODELS[pipeline].model_fields
    assert {name: fields[name].default for name in SEED_DEFAULTS} == SEED_DEFAULTS


@pytest.mark.parametrize("pipeline", [
    "text_classification", "token_classification", "question_answering", "summarization", "translation",
    "text_generation", "reranking",
])  # fmt: skip
def test_every_input_of_the_finetune_component_is_in_the_yaml_with_its_default(pipeline):
    import yaml

    file = Path(__file__).parents[2] / "compiled" / f"{pipeline}_pipeline.yaml"
    with open(file, encoding="utf-8") as stream:
        inputs = next(yaml.safe_load_all(stream))["root"]["inputDefinitions"]["parameters"]
    assert len(SEED_DEFAULTS) == 50
    fields = PARAMETER_MODELS[pipeline].model_fields
    assert {name: our_value(fields[name], inputs[name]["defaultValue"]) for name in SEED_DEFAULTS} == SEED_DEFAULTS
    assert all(inputs[name]["isOptional"] for name in SEED_DEFAULTS)
    for name, values in SEED_CHOICES.items():
        assert values <= {our_value(fields[name], choice) for choice in inputs[name]["literals"]}, name


@pytest.mark.parametrize("pipeline", PARAMETER_MODELS)
def test_every_parameter_says_what_it_means(pipeline):
    for name, field in PARAMETER_MODELS[pipeline].model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def problems_of(**given) -> list[str]:
    with pytest.raises(StepError) as caught:
        read_parameters("chat_completion", given)
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_are_told_at_once():
    told = "\n".join(problems_of(learning_rate=0, lora_r="many", optim="adam", colour="red"))
    for name in ("learning_rate", "lora_r", "optim", "colour", "exactly one model source", "train_file_path"):
        assert name in told


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lerning_rate": 1}, "did you mean learning_rate?"),
        ({"learning_rate": 0}, "found 0; expected a number above 0"),
        ({"learning_rate": "fast"}, "found 'fast'"),
        ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size: found 2.5"),
        ({"lr_scheduler_type": "cosin"}, "did you mean cosine?"),
        ({"huggingface_id": "a/b"}, "huggingface_id, pytorch_model_path: found huggingface_id and pytorch_model_path"),
        ({"pytorch_model_path": ""}, "found none of them; expected exactly one model source"),
        ({"train_file_path": ""}, "train_file_path: found nothing"),
        ({"apply_early_stopping": True, "evaluation_strategy": "no"}, "expected evaluations during training"),
        ({"gate_metric": "loss", "gate_min_value": 0.5}, "set gate_max_value instead"),
        ({"gate_metric": "exact_match", "gate_max_value": 0.5}, "set gate_min_value instead"),
        ({"gate_metric": "loss", "gate_min_value": 0}, "set gate_max_value instead"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"overrides": {"overrides": {}}}, "an object of parameters by name"),
        ({"learning_rate": float("inf")}, "learning_rate"),
    ],
)
def test_a_wrong_value_is_refused_with_the_fix(given, words):
    (problem,) = problems_of(**{**ENOUGH, **given})
    assert words in problem
    assert "Fix: " in problem


LORA = {"apply_lora": True}
PREFERENCE = {"per_device_train_batch_size": 2}
# Pipeline, what is given → code and parameter, what is expected, because of what.
REASONS = [
    ("chat_completion", {"apply_deepspeed": True, "auto_find_batch_size": True},
     "PARAM-E0271 auto_find_batch_size", "one of the two", "DeepSpeed's batch size is fixed when it starts"),
    ("chat_completion", {**LORA, "init_lora_weights": "orthogonal", "lora_r": 3},
     "PARAM-E0264 init_lora_weights", "an even rank", "each of the two matrices gets half of the rank's vectors"),
    ("chat_completion", {**LORA, "peft_type": "ia3", "lora_r": 3},
     "PARAM-E0261 lora_r", "8", "it has no effect for ia3"),
    ("chat_completion", {**LORA, "peft_kwargs": {"layers_to_transform": [0]}},
     "PARAM-E0263 peft_kwargs.layers_to_transform", "module names", "PEFT selects layers only among named modules"),
    ("chat_completion", {"trust_remote_code": True},
     "PARAM-E0202 trust_remote_code", "false", "code from model folders is never run"),
    ("chat_completion", {**LORA, "optim": "galore_adamw"},
     "PARAM-E0213 optim", "only one of them", "an adapter's matrices have a low rank already"),
    ("chat_completion", {**LORA, "peft_type": "prompt_tuning", "packing": True},
     "PARAM-E0279 packing", "false", "the learned vectors precede only the first row of a packed sequence"),
    ("chat_completion", {**LORA, "peft_type": "prompt_tuning", "load_in_4bit": True},
     "PARAM-E0279 load_in_4bit", "false", "prompt tuning of a quantised base model is not tested"),
    ("chat_completion", {"load_in_4bit": True},
     "PARAM-E0278 load_in_4bit", "apply_lora=true", "quantised weights cannot be trained themselves"),
    ("chat_completion", {**LORA, "load_in_4bit": True, "apply_deepspeed": True, "deepspeed_stage": "3"},
     "PARAM-E0278 load_in_4bit", "deepspeed_stage=2",
     "stage 3 would split quantised weights into parts that cannot be read"),
    ("chat_completion", {**LORA, "load_in_4bit": True, "peft_type": "loha"},
     "PARAM-E0278 peft_type", "lora or ia3", "PEFT supports no other kind on quantised weights"),
    ("chat_completion", {**LORA, "load_in_8bit": True, "use_dora": True},
     "PARAM-E0278 use_dora", "false", "DoRA needs the norms of the base's rows, which PEFT cannot read in 8 bits"),
    ("chat_completion", {**LORA, "load_in_8bit": True, "init_lora_weights": "orthogonal"},
     "PARAM-E0278 init_lora_weights", "true or gaussian",
     "PEFT would give the adapter the base's data type, integers when quantised"),
    ("chat_completion", {"llm_int8_threshold": 1.0},
     "PARAM-E0277 llm_int8_threshold", "6.0", "it is only used with load_in_8bit=true"),
    ("chat_completion", {"attn_implementation": "flash_attention_2"},
     "PARAM-E0215 attn_implementation", "precision=16", "it supports 16 bits only"),
    ("text_generation", {"gate_metric": "bleu"},
     "PARAM-E0207 gate_metric", "loss or perplexity", "there is no correct answer to compare with"),
    ("pretraining", {**LORA, "new_weights": True},
     "PARAM-E0211 apply_lora", "false", "an adapter on random weights learns almost nothing"),
    ("pretraining", {"new_weights": True, "adapter_path": "a"},
     "PARAM-E0266 adapter_path", "the model's own weights", "an adapter fits only the weights that it was trained on"),
    ("preference", {"method": "kto"},
     "PARAM-E0256 per_device_train_batch_size", "at least 2", "this loss compares the rows of a batch"),
    ("preference", {**PREFERENCE, "method": "kto", "auto_find_batch_size": True},
     "PARAM-E0256 auto_find_batch_size", "false", "this loss compares the rows of a batch"),
    ("preference", {**PREFERENCE, "method": "kto", "metric_for_best_model": "rewards/margins"},
     "PARAM-E0257 metric_for_best_model", "loss", "a batch may contain good answers only"),
    ("preference", {**LORA, "peft_type": "loha", "peft_kwargs": {"rank_dropout": 0.1}},
     "PARAM-E0259 peft_kwargs.rank_dropout", "nothing",
     "dropout is switched off, as rewards are small differences of probabilities"),
    ("preference", {"method": "orpo", "pad_to_max_length": True},
     "PARAM-E0255 pad_to_max_length", "false", "TRL pads these batches to their longest row only"),
    ("preference", {"method": "orpo", "label_smoothing": 0.1},
     "PARAM-E0254 label_smoothing", "0.0", "orpo smooths no loss"),
    ("preference", {"desirable_weight": 2.0},
     "PARAM-E0255 desirable_weight", "method=kto", "desirable_weight has no effect for dpo"),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "given", "what", "expected", "why"), REASONS)
def test_a_conflict_tells_its_reason_in_a_clause_of_its_own(pipeline, given, what, expected, why):
    with pytest.raises(UserError) as caught:
        read_parameters(pipeline, {**ENOUGH, **given})
    told = {f"{problem.code} {problem.where}": problem for problem in caught.value.problems}
    assert (told[what].expected, told[what].why) == (expected, why)
    assert f"; expected {expected}, because {why}. Fix: " in str(told[what])


def test_no_reason_is_squeezed_into_what_is_expected():
    import ast

    squeezed = []
    for file in sorted(Path(__file__).parents[2].glob("steps/params/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                texts = [part.value for part in ast.walk(node.args[3]) if isinstance(part, ast.Constant)]
                squeezed += [f"{file}:{node.lineno}" for text in texts if ": " in str(text) or "; " in str(text)]
    assert squeezed == []


def test_conflicts_are_found_although_another_value_is_refused():
    told = "\n".join(problems_of(**ENOUGH, learning_rate=0, apply_early_stopping=True, evaluation_strategy="no"))
    assert "learning_rate" in told
    assert "apply_early_stopping" in told


def test_text_generation_without_answers_cannot_learn_or_match_answers():
    with pytest.raises(UserError) as caught:
        read_parameters("text_generation", {**ENOUGH, "train_on_completions_only": True, "gate_metric": "bleu"})
    assert [problem.where for problem in caught.value.problems] == ["train_on_completions_only", "gate_metric"]


@pytest.mark.parametrize(
    ("given", "name", "effective"),
    [
        ({"optim": "adamw_hf"}, "optim", "adamw_torch"),
        ({"eval_strategy": "steps"}, "evaluation_strategy", "steps"),
        ({"evaluation_strategy": "disable"}, "evaluation_strategy", "no"),
        ({"evaluation_strategy": False}, "evaluation_strategy", "no"),
        ({"use_peft": "true"}, "apply_lora", True),
        ({"lr_scheduler_type": ""}, "lr_scheduler_type", "linear"),
    ],
)
def test_renamed_names_and_values_are_translated_with_one_warning(given, name, effective):
    reading = read_parameters("chat_completion", {**ENOUGH, **given})
    assert getattr(reading.parameters, name) == effective
    about = [warning for warning in reading.warnings if name in warning or next(iter(given)) in warning]
    assert about
    assert len(about) == len(set(about))


def test_a_translated_default_is_recorded_but_warns_nobody():
    reading = read_parameters("chat_completion", ENOUGH)
    assert reading.parameters.optim == "adamw_torch"
    assert reading.requested["optim"] == "adamw_hf"
    assert reading.warnings == []
    assert [translation.parameter for translation in reading.translations] == ["optim"]


@pytest.mark.parametrize(
    ("value", "meant"), [("true", True), ("False", False), ("YES", True), ("0", False), (1, True), (False, False)]
)
def test_booleans_are_read_in_every_spelling(value, meant):
    assert read_parameters("chat_completion", {**ENOUGH, "apply_lora": value}).parameters.apply_lora is meant


def test_values_from_yaml_and_the_command_line_mean_the_same():
    typed = {"learning_rate": 1e-5, "precision": 16, "resume_from_checkpoint": True, "lora_r": 4}
    words = {"learning_rate": "1e-5", "precision": "16", "resume_from_checkpoint": "true", "lora_r": "4"}
    readings = [read_parameters("chat_completion", {**ENOUGH, **values}) for values in (typed, words)]
    assert readings[0].parameters == readings[1].parameters


def test_overrides_win_and_whole_numbers_survive_kfps_floats():
    given = {**ENOUGH, "lora_r": 4, "overrides": {"lora_r": 16.0, "learning_rate": 1.0}}
    parameters = read_parameters("chat_completion", given).parameters
    assert parameters.lora_r == 16
    assert parameters.learning_rate == 1.0


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, "AKIA" + "B" * 16, "s3://key:secret@bucket/x.jsonl"])
def test_secrets_are_refused_without_being_shown(secret):
    with pytest.raises(StepError) as caught:
        read_parameters("chat_completion", {**ENOUGH, "train_file_path": secret})
    assert caught.value.exit_code == 3
    assert secret not in str(caught.value)


def test_a_secret_in_the_overrides_is_refused_too():
    secret = "hf_" + "a" * 34
    for given in ({"overrides": {"experiment_name": secret}}, {"overrides": f"experiment_name={secret}"}):
        with pytest.raises(SecurityRefusal) as caught:
            read_parameters("chat_completion", {**ENOUGH, **given})
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"chat_template": "a\ud800"},
        {"role_map": {"\udcff": "user"}},
        {"\udc80": 1},
        {"training_data": [{"path": ["x\udfff"]}]},
        {"overrides": {"mlflow_tags": {"a": "\ud83d"}}},
    ],
)
def test_a_text_that_no_file_can_hold_is_refused(given):
    with pytest.raises(UserError, match="PARAM-E0121") as error:
        read_parameters("chat_completion", {**ENOUGH, **given})
    str(error.value).encode()


@pytest.mark.parametrize("text", ["😀", "a\u0301", "٣", "日本"])
def test_any_whole_character_is_taken(text):
    assert read_parameters("chat_completion", {**ENOUGH, "experiment_name": text}).requested["experiment_name"] == text
