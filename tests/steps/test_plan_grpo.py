"""The plan of a training with rewards: batches, lengths, memory, engines, and what is handed on."""

import json
import math

import pytest
from conftest import write_jsonl

from steps import wire
from steps.errors import UserError
from steps.params.pipelines.grpo_chat_completion import GrpoChatCompletionParameters
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, RegistrationSettings
from steps.plan.completion_engine import uses_vllm
from steps.plan.deciding import decide
from steps.plan.generations import Generations, batch_problems
from steps.plan.step import plan

PIPELINE = "grpo_chat_completion"
FEW = {"number_of_gpu_to_use_finetuning": 0, "max_prompt_length": 128, "max_completion_length": 64}


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", [{"problem": f"{n} + 1?", "solution": str(n + 1)} for n in range(60)])


@pytest.fixture
def given(tiny_model, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    return {**FEW, "pytorch_model_path": str(tiny_model), "dataset_train_split": str(rows)}


def refused(given, **changes) -> list[tuple[str, str, str]]:
    with pytest.raises(UserError) as caught:
        decide(PIPELINE, {**given, **changes})
    return [(problem.code, problem.where, problem.fix) for problem in caught.value.problems]


def planned(given, tmp_path, **changes):
    made = plan(PIPELINE, {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    return made, json.loads((tmp_path / "plan/plan.json").read_text())


def arithmetic(told: dict) -> dict:
    return {line["name"]: line["value"] for line in told["arithmetic"]}


# Batches.


def parameters(**changes):
    from steps.params.reading import read_parameters

    given = {**FEW, "pytorch_model_path": "/m", "dataset_name": "d", **changes}
    return read_parameters(PIPELINE, given).parameters


@pytest.mark.parametrize("generations", [2, 3, 4, 6])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_batches_are_refused_exactly_where_trl_refuses_them(generations, steps, tmp_path):
    from trl import GRPOConfig

    told, raised = [], []
    for size in (1, 2, 3, 4, 6, 8):
        for accumulated in (1, 2, 3):
            for evaluates in ("no", "epoch"):
                sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated,
                         "num_generations": generations, "per_device_eval_batch_size": size}  # fmt: skip
                p = parameters(**sizes, steps_per_generation=steps, eval_strategy=evaluates)
                told.append(bool(list(batch_problems(p))))
                try:
                    GRPOConfig(tmp_path, use_cpu=True, bf16=False, eval_strategy=evaluates, report_to=[],
                               steps_per_generation=steps or None, **sizes)  # fmt: skip
                    raised.append(False)
                except ValueError:
                    raised.append(True)
    assert told == raised
    assert True in told
    assert False in told


@pytest.mark.parametrize(
    ("size", "accumulated", "generations", "rows", "iterations", "steps"),
    [
        (8, 1, 4, 48, 5, 0),
        (8, 1, 4, 49, 1, 0),
        (2, 4, 4, 51, 2, 0),
        (4, 2, 4, 17, 1, 4),
        (6, 3, 9, 40, 3, 0),
        (4, 3, 4, 9, 1, 2),
    ],
)
def test_steps_of_an_epoch_are_those_of_trls_sampler(size, accumulated, generations, rows, iterations, steps):
    from trl.trainer.utils import RepeatSampler

    p = parameters(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated, num_iterations=iterations,
                   num_generations=generations, steps_per_generation=steps)  # fmt: skip
    batches = steps or accumulated
    sampler = RepeatSampler(range(rows), mini_repeat_count=generations, batch_size=size * batches // generations,
                            repeat_count=iterations * batches, shuffle=False)  # fmt: skip
    # A batch of TRL's data loader is a whole generation, of which every forward pass takes its part.
    passes = len(sampler) // (size * batches)
    assert Generations.of(p).per_epoch(rows) == math.ceil(passes / accumulated)


def test_the_nearest_valid_sizes_are_proposed(given):
    told = refused(given, per_device_train_batch_size=6, per_device_eval_batch_size=3, do_eval=True)
    assert told == [
        ("PLAN-E0501", "per_device_train_batch_size",
         "set per_device_train_batch_size to 4 or 8, or num_generations to 3"),
        ("PLAN-E0502", "per_device_eval_batch_size", "set per_device_eval_batch_size to 4, or num_generations to 3"),
    ]  # fmt: skip
    (told,) = refused(given, per_device_train_batch_size=5, nproc_per_node_finetune=2)
    assert told[2] == "set per_device_train_batch_size to 4 or 6, or num_generations to 5"
    (told,) = refused(given, per_device_train_batch_size=1)  # no number from 2 on divides one completion
    assert told[2] == "set per_device_train_batch_size to 4"
    decide(PIPELINE, {**given, "per_device_train_batch_size": 4})


def test_without_evaluations_their_batch_is_free(given):
    decide(PIPELINE, {**given, "per_device_eval_batch_size": 3})


def test_a_batch_size_that_is_found_is_refused(given):
    assert refused(given, auto_find_batch_size=True) == [("PLAN-E0102", "auto_find_batch_size", "leave it out")]


def test_one_completion_to_a_prompt_is_refused(given):
    assert refused(given, num_generations=1)[0][:2] == ("PARAM-E0103", "num_generations")


def test_a_total_batch_size_may_be_given_beside_the_default_of_a_device(given):
    p = decide(PIPELINE, {**given, "total_train_batch_size": 16, "max_per_device_train_batch_size": 4}).parameters
    assert (p.per_device_train_batch_size, p.gradient_accumulation_steps) == (4, 4)


# Numbers.


def test_the_plan_counts_prompts_completions_and_updates(given, tmp_path):
    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_iterations": 2,
               "num_train_epochs": 3.0, "nproc_per_node_finetune": 2}  # fmt: skip
    _, told = planned(given, tmp_path, **changes)
    # 60 rows, 48 to learn from; 4 x 2 processes x 4 = 32 completions to 8 prompts, learned from twice.
    numbers = arithmetic(told)
    expected = {
        "longest sequence": 192, "prompts per generation": 8, "completions per generation": 32,
        "updates per generation": "2", "sequences per optimizer step": 32, "training rows": 48, "optimizer steps": 36,
        "completions in all": 18 * 32, "rewards": 2, "system prompt": "added",
    }  # fmt: skip
    assert expected.items() <= numbers.items()


def test_prompts_that_fill_no_generation_are_told(given, tmp_path):
    _, told = planned(given, tmp_path, num_generations=2, per_device_train_batch_size=20)
    line = next(line for line in told["arithmetic"] if line["name"] == "training rows")
    assert line["how"].endswith("; 8 of an epoch left out, as they fill no generation")  # 48 rows, 10 at a time


def test_fewer_rows_than_prompts_of_a_generation_are_refused(given):
    ((code, where, _),) = refused(given, num_generations=2, per_device_train_batch_size=120)
    assert (code, where) == ("PLAN-E0504", given["dataset_train_split"])


def test_without_counted_rows_max_steps_tells_the_completions(given, tmp_path, rows):
    import gzip

    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(rows.read_bytes()))
    _, told = planned(given, tmp_path, dataset_train_split=str(packed), max_steps=10)
    assert arithmetic(told)["completions in all"] == 16  # five updates from the same eight
    assert "training rows" not in arithmetic(told)


# Lengths.


def test_prompt_and_completion_must_fit_into_the_models_positions(given):
    ((code, where, fix),) = refused(given, max_prompt_length=200)  # of 256
    assert (code, where) == ("PLAN-E0503", "max_prompt_length")
    assert fix == "set max_prompt_length to at most 192, or lower max_completion_length"
    decide(PIPELINE, {**given, "max_prompt_length": 192})
    assert refused(given, max_completion_length=256)[0][:2] == ("PLAN-E0503", "max_completion_length")


@pytest.mark.parametrize("name", ["max_seq_length", "evaluation_max_new_tokens"])
def test_lengths_of_other_pipelines_are_refused(given, name):
    assert refused(given, **{name: 64})[0][:2] == ("PLAN-E0102", name)


# Warnings.


def warnings(given, **changes) -> set[str]:
    return {text.split("=")[0] for text in decide(PIPELINE, {**given, **changes}).warnings}


def test_the_seeds_own_values_are_warned_of_and_usual_ones_are_not(given):
    assert warnings(given) == {"epsilon", "num_iterations", "learning_rate"}
    assert warnings(given, epsilon=0.2, num_iterations=1, learning_rate=1e-5) == set()
    assert warnings(given, epsilon=0.3, num_iterations=4, apply_lora=False) == set()
    assert "epsilon" not in warnings(given, loss_type="cispo")


# Engines.


def test_vllm_and_liger_are_refused_where_they_cannot_run(given, monkeypatch):
    no_gpu = refused(given, use_vllm="true", use_liger_kernel=True)
    assert {("PLAN-E0521", "use_liger_kernel"), ("PLAN-E0521", "use_vllm")} <= {told[:2] for told in no_gpu}
    assert {("PLAN-E0311", "use_liger_kernel"), ("PLAN-E0311", "use_vllm")} <= {told[:2] for told in no_gpu}
    gpus = {"number_of_gpu_to_use_finetuning": 4, "instance_type_finetune": "standard_nd96isrf_h100_v5"}
    monkeypatch.delenv("FINETUNE_ROOT")
    monkeypatch.setattr("steps.plan.packages._is_installed", lambda package: True)
    cluster = {**given, **gpus, "use_vllm": "true", "mlflow_server_uri": "http://m"}
    told = decide(PIPELINE, {**cluster, "use_liger_kernel": True}).warnings
    assert any("use_vllm=true: the image of finetune must have vllm" in text for text in told)
    assert any("use_liger_kernel=true: the image of finetune must have liger-kernel" in text for text in told)
    ((code, where, fix),) = refused(cluster, vllm_tensor_parallel_size=3)
    assert (code, where, fix) == ("PLAN-E0522", "vllm_tensor_parallel_size", "set it to 4 or less, or leave it out")
    assert refused(cluster, vllm_tensor_parallel_size=4)[0][:2] == (
        "PLAN-E0522",
        "vllm_tensor_parallel_size",
    )  # 2 heads
    decide(PIPELINE, {**cluster, "vllm_tensor_parallel_size": 2})
    for name in ("load_in_4bit", "load_in_8bit"):
        assert refused(cluster, **{name: True})[0][:2] == ("PLAN-E0523", name)


# Memory.


def parts(given, **changes) -> dict[str, int]:
    return decide(PIPELINE, {**given, **changes}).memory.parts


def test_the_reference_is_counted_where_it_is_a_copy(given):
    whole = {"apply_lora": False, "learning_rate": 1e-5}
    weights = parts(given, **whole)["weights"]
    assert parts(given, **whole)["reference model"] == weights
    assert "reference model" not in parts(given, **whole, beta=0)
    assert "reference model" not in parts(given)  # the model without its adapter


def test_the_cache_of_completions_is_counted(given):
    many = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 64, "num_generations": 4}
    found = decide(PIPELINE, {**given, **many, "min_train_rows": 1, "max_steps": 1, "num_generations": 8}).memory.parts
    # 256 sequences of 192 tokens; keys and values of 64 numbers in 2 layers, 4 bytes each.
    assert found["keys and values"] == 256 * 192 * 2 * 64 * 2 * 4


def test_vllm_takes_its_share_of_the_gpu(given, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    monkeypatch.setattr("steps.plan.packages._is_installed", lambda package: True)
    cluster = {"number_of_gpu_to_use_finetuning": 1, "mlflow_server_uri": "http://m", "use_vllm": "true"}
    found = parts(given, **cluster, vllm_gpu_memory_utilization=0.25)
    assert found["vLLM"] == 20 * 2**30  # of 80 GiB
    assert "keys and values" not in found
    assert "vLLM" not in parts(given, **{**cluster, "use_vllm": "auto"})
    ((code, _, _),) = refused(given, **cluster, vllm_gpu_memory_utilization=0.9999999)
    assert code == "PLAN-E0365"


@pytest.mark.parametrize("changes", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_auto_counts_no_share_for_weights_that_vllm_does_not_take(given, monkeypatch, changes):
    monkeypatch.setattr("steps.plan.completion_engine.missing_for", lambda engine: "")
    p = GrpoChatCompletionParameters(**{**given, "use_vllm": "auto"})
    assert uses_vllm(p, on_gpu=True)
    assert not uses_vllm(p.model_copy(update=changes), on_gpu=True)


# What is handed on.


def read(kind, text):
    return kind.model_validate(wire.load(text))


def test_each_step_gets_what_it_needs_of_the_rewards(given, tmp_path):
    options = {"reward_weights": "0.8,0.2", "reward_options": {"format": {"partial": True}}, "beta": 0,
               "method": "rloo", "use_liger_kernel": False, "do_eval": True}  # fmt: skip
    made, _ = planned(given, tmp_path, **options)
    data, training, evaluation, registration = (
        read(DataSettings, made.data), read(FinetuneSettings, made.training), read(EvaluationSettings, made.evaluation),
        read(RegistrationSettings, made.registration),
    )  # fmt: skip
    assert (data.task, data.method, data.max_prompt_length, data.max_length) == ("grpo", "rloo", 128, 192)
    assert data.rows_per_step == 2  # prompts of a generation
    rewarded, rewards = training.asked_rewards
    assert (rewarded.method, rewarded.num_iterations, rewarded.do_eval) == ("rloo", 5, True)
    assert (rewards.rewards, rewards.reward_weight_list) == (["accuracy", "format"], [0.8, 0.2])
    assert rewards.options_by_reward == {"format": {"partial": True}}
    assert training.recipe.method.name == "rloo"
    assert evaluation.rewards == rewards
    assert (evaluation.completions.max_completion_length, evaluation.method) == (64, "rloo")
    assert registration.max_new_tokens == 64
    assert training.training.evaluation_strategy == "no"


def test_another_learning_rate_leaves_data_and_evaluation_as_they_are(given, tmp_path):
    before, _ = planned(given, tmp_path)
    after, _ = planned(given, tmp_path, learning_rate=1e-5)
    changed = [name for name in before._fields if getattr(before, name) != getattr(after, name)]
    assert changed == ["training", "registration"]


@pytest.mark.parametrize("file", ["/rows.json", "data/x.jsonl"])
def test_a_file_that_does_not_exist_is_told_under_the_name_that_the_user_gave(given, file):
    ((_, where, _),) = refused(given, dataset_train_split=file)
    assert where.startswith("dataset_train_split")


def test_the_plan_is_the_same_by_either_name_of_the_rows(given, rows, tmp_path):
    before, _ = planned(given, tmp_path)
    other = {name: value for name, value in given.items() if name != "dataset_train_split"}
    after, _ = planned({**other, "train_file_path": str(rows)}, tmp_path)
    assert before.data == after.data
    assert before.training == after.training


# Sweeps.


def test_a_trial_needs_the_prompts_of_one_generation_and_all_have_the_same_rewards(given):
    from steps.plan.sweeps import decide_sweep

    trials = [{"num_generations": 4}, {"num_generations": 8, "evaluation_strategy": "epoch"}]
    sweep = decide_sweep(f"{PIPELINE}_sweep", {**given, "eval_strategy": "steps", "trials": trials})
    assert [trial.settings.rows_per_step for trial in sweep.trials] == [2, 1]
    assert [trial.settings.training.training.evaluation_strategy for trial in sweep.trials] == ["steps", "epoch"]
    assert len(sweep.data) == 1
    with pytest.raises(UserError, match="measured in different ways"):
        decide_sweep(f"{PIPELINE}_sweep", {**given, "trials": [{"reward_funcs": "format"}, {"seed": 1}]})
    with pytest.raises(UserError, match="eval_strategy=steps or epoch"):
        decide_sweep(f"{PIPELINE}_sweep", {**given, "pruner": "median", "trials": [{"seed": 2}, {"seed": 1}]})
