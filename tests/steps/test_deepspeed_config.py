"""DeepSpeed configurations in the plan: conversion and refusals, without DeepSpeed."""

import json
import sys

import pytest
from conftest import write_jsonl  # noqa: F401  (its fixtures come with it)

from steps import wire
from steps.errors import Problem, SecurityRefusal, StepError
from steps.kinds.recipe import recipe
from steps.launch.deepspeed_config import BUILT_IN, LARGEST, normalised
from steps.params.settings import FinetuneSettings
from steps.plan.memory import estimate
from steps.plan.step import plan

STAGE_2 = {"zero_optimization": {"stage": 2}}
STAGE_3 = {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}


@pytest.fixture
def given(tiny_model, chat_file, tmp_path):
    return {
        "pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m",
        "apply_deepspeed": True,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ds.json"


def planned(given, tmp_path, **changes) -> tuple[FinetuneSettings, dict]:
    made = plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    return FinetuneSettings.model_validate(wire.load(made.training)), told


def with_file(given, tmp_path, file, config, **changes) -> tuple[FinetuneSettings, dict]:
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return planned(given, tmp_path, deepspeed=str(file), **changes)


def problems(given, tmp_path, **changes) -> list[Problem]:
    with pytest.raises(StepError) as caught:
        planned(given, tmp_path, **changes)
    assert not (tmp_path / "plan").exists()
    return caught.value.problems


def refused(given, tmp_path, file, config, **changes) -> list[Problem]:
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return problems(given, tmp_path, deepspeed=str(file), **changes)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_the_built_in_ones_leave_to_the_parameters_what_these_say(given, tmp_path, stage):
    settings, told = planned(given, tmp_path, deepspeed_stage=stage)
    config = settings.deepspeed
    assert config["zero_optimization"] == BUILT_IN[stage]["zero_optimization"]
    assert {config[key] for key in ("train_batch_size", "gradient_clipping", "gradient_accumulation_steps")} == {"auto"}
    assert not {"optimizer", "scheduler"} & set(config)
    assert not told["warnings"]
    what = next(task["what"] for task in told["tasks"] if task["task"] == "finetune")
    assert what.endswith({"2": "ZeRO-2, optimizer on the CPU", "3": "ZeRO-3, optimizer and weights on the CPU"}[stage])


def test_without_apply_deepspeed_a_file_is_ignored_and_that_is_told(given, tmp_path, file):
    file.write_text("no JSON")
    settings, told = planned(given, tmp_path, apply_deepspeed=False, deepspeed=str(file))
    assert settings.deepspeed == {}
    assert told["warnings"] == ["deepspeed is ignored: apply_deepspeed is false"]


def test_a_file_wins_over_the_stage_and_its_digest_is_in_the_plan(given, tmp_path, file):
    import hashlib

    settings, told = with_file(given, tmp_path, file, STAGE_2, deepspeed_stage="3")
    assert settings.deepspeed["zero_optimization"] == {"stage": 2}
    assert told["warnings"] == ["deepspeed_stage=3 is ignored: the file sets stage 2"]
    source = next(source for source in told["sources"] if source["what"] == "deepspeed")
    assert source["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()


# What the file says, the parameters → size, passes, norm, precision that train, and words of the warnings.
MERGED = {
    "auto": ({"train_micro_batch_size_per_gpu": "auto"}, {"per_device_train_batch_size": 4}, (4, 1, 1.0, "32"), []),
    "nothing": ({}, {"max_grad_norm": 0.5}, (1, 1, 0.5, "32"), []),
    "size": ({"train_micro_batch_size_per_gpu": 4}, {}, (4, 1, 1.0, "32"),
             ["per_device_train_batch_size is 4 instead of 1"]),
    "size wins": ({"train_micro_batch_size_per_gpu": 4}, {"per_device_train_batch_size": 2}, (4, 1, 1.0, "32"),
                  ["per_device_train_batch_size is 4 instead of 2"]),
    "a float": ({"train_micro_batch_size_per_gpu": 4.0}, {"per_device_train_batch_size": 4}, (4, 1, 1.0, "32"), []),
    "passes": ({"gradient_accumulation_steps": 8}, {"gradient_accumulation_steps": 2}, (1, 8, 1.0, "32"),
               ["gradient_accumulation_steps is 8 instead of 2"]),
    "total": ({"train_batch_size": 8}, {"per_device_train_batch_size": 2}, (2, 4, 1.0, "32"),
              ["gradient_accumulation_steps is 4 instead of 1"]),
    "total and passes": ({"train_batch_size": 8, "gradient_accumulation_steps": 2}, {}, (4, 2, 1.0, "32"),
                         ["per_device_train_batch_size is 4", "gradient_accumulation_steps is 2"]),
    "all three": ({"train_batch_size": 8, "gradient_accumulation_steps": 2, "train_micro_batch_size_per_gpu": 4}, {},
                  (4, 2, 1.0, "32"), ["per_device_train_batch_size is 4", "gradient_accumulation_steps is 2"]),
    # Totals that were written for another number of processes: a step keeps its rows.
    "no divisor": ({"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}, {}, (1, 7, 1.0, "32"),
                   ["train_batch_size=7 with 2 is for another number of processes: each step keeps its 7 rows",
                    "gradient_accumulation_steps is 7"]),
    "four processes": ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2},
                       {}, (2, 8, 1.0, "32"),
                       ["train_batch_size=16 with 2 × 2 is for another number of processes",
                        "per_device_train_batch_size is 2", "gradient_accumulation_steps is 8"]),
    "half a process": ({"train_batch_size": 2, "train_micro_batch_size_per_gpu": 4}, {}, (2, 1, 1.0, "32"),
                       ["train_batch_size=2 with 4 is for", "per_device_train_batch_size is 2"]),
    "passes of another": ({"train_batch_size": 6, "gradient_accumulation_steps": 4}, {"per_device_train_batch_size": 3},
                          (3, 2, 1.0, "32"), ["train_batch_size=6 with 4 is for", "gradient_accumulation_steps is 2"]),
    "rows of the parameters": ({"train_batch_size": 32}, {"per_device_train_batch_size": 3}, (2, 16, 1.0, "32"),
                               ["train_batch_size=32 is for", "per_device_train_batch_size is 2",
                                "gradient_accumulation_steps is 16"]),
    "clipping": ({"gradient_clipping": 0.3}, {}, (1, 1, 0.3, "32"), ["max_grad_norm is 0.3 instead of 1.0"]),
    "no clipping": ({"gradient_clipping": 0}, {}, (1, 1, 0.0, "32"), ["max_grad_norm is 0.0 instead of 1.0"]),
    "bf16": ({"bf16": {"enabled": True}}, {}, (1, 1, 1.0, "16"), ["precision is 16 instead of 32"]),
    "fp16": ({"fp16": {"enabled": True}}, {"precision": "16"}, (1, 1, 1.0, "16"), []),
    "old bfloat16": ({"bfloat16": {"enabled": True}}, {"precision": "16"}, (1, 1, 1.0, "16"),
                     ["bfloat16: read as bf16"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_where_both_name_a_value_the_plan_says_which_one_counts(given, tmp_path, file, case):
    config, parameters, expected, words = MERGED[case]
    settings, told = with_file(given, tmp_path, file, {**STAGE_2, **config}, **parameters)
    t = settings.training
    trained = (t.per_device_train_batch_size, t.gradient_accumulation_steps, t.max_grad_norm, t.precision)
    assert trained == expected
    assert len(told["warnings"]) == len(words)
    assert all(word in warning for word, warning in zip(words, told["warnings"], strict=True))
    step = next(line["value"] for line in told["arithmetic"] if line["name"] == "sequences per optimizer step")
    assert step == expected[0] * expected[1]
    assert told["effective"]["per_device_train_batch_size"] == expected[0]
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert {settings.deepspeed[key] for key in keys} == {"auto"}


@pytest.mark.parametrize(
    ("config", "precision", "expected"),
    [
        ({}, "16", ("auto", "auto")),
        ({}, "32", (False, False)),
        ({"fp16": {"enabled": True}}, "16", (True, False)),
        ({"bf16": {"enabled": True}}, "16", (False, True)),
        ({"fp16": {"enabled": False}}, "16", (False, True)),
        ({"bf16": {"enabled": False}}, "16", (True, False)),
        ({"fp16": {"loss_scale": 0}, "bf16": {"enabled": "auto"}}, "16", (False, True)),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": False}}, "32", (False, False)),
    ],
)
def test_which_sixteen_bits_it_is_says_the_file_or_else_the_gpu(given, tmp_path, file, config, precision, expected):
    settings, _ = with_file(given, tmp_path, file, {**STAGE_2, **config}, precision=precision)
    assert (settings.deepspeed["fp16"]["enabled"], settings.deepspeed["bf16"]["enabled"]) == expected


NORMALISED = {
    "old offload": ({"zero_optimization": {"stage": 2, "cpu_offload": True}},
                    {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}}},
                    ["cpu_offload: read as zero_optimization.offload_optimizer"]),
    "old offload, not pinned": (
        {"zero_optimization": {"stage": 3, "cpu_offload_params": True, "cpu_offload_use_pin_memory": False}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": False}}},
        ["cpu_offload_params: read as"]),
    "switched off": ({"zero_optimization": {"stage": 2, "cpu_offload": False}},
                     {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}, ["cpu_offload"]),
    "new name wins": ({"zero_optimization": {"stage": 2, "cpu_offload": True, "offload_optimizer": {"device": "none"}}},
                      {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}},
                      ["cpu_offload: ignored"]),
    "accelerate": ({"compute_environment": "LOCAL_MACHINE", "num_processes": 8, "deepspeed_config": {
                        "zero_stage": 3, "zero3_save_16bit_model": True, "zero3_init_flag": True,
                        "offload_optimizer_device": "cpu", "offload_param_device": "none"}},
                   {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True,
                                          "offload_optimizer": {"device": "cpu", "pin_memory": True},
                                          "offload_param": {"device": "none"}}},
                   ["compute_environment, num_processes, zero3_init_flag: ignored", "zero_stage: read as",
                    "zero3_save_16bit_model: read as", "offload_optimizer_device: read as",
                    "offload_param_device: read as"]),
    "optimizer and scheduler": ({"optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
                                 "scheduler": {"type": "WarmupLR"}, "zero_optimization": {"stage": 1}},
                                {"zero_optimization": {"stage": 1}},
                                ["optimizer is ignored", "scheduler is ignored: the parameters lr_scheduler_type"]),
    "services": ({"zero_optimization": {"stage": 2}, "wandb": {"enabled": True}, "tensorboard": {"enabled": False},
                  "csv_monitor": {"enabled": True}, "comet": {}, "nebula": {"enabled": True}},
                 {"zero_optimization": {"stage": 2}},
                 ["wandb is ignored: metrics are sent to mlflow_server_uri", "csv_monitor is ignored",
                  "nebula is ignored: checkpoint_dir"]),
    "unknown key": ({"zero_optimization": {"stage": 2}, "gradient_cliping": 1},
                    {"zero_optimization": {"stage": 2}, "gradient_cliping": 1},
                    ["gradient_cliping: unknown to DeepSpeed, which ignores it; did you mean gradient_clipping?"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMALISED)
def test_old_and_foreign_keys_are_read_as_todays_and_each_is_told(case):
    before, after, words = NORMALISED[case]
    told: list[str] = []
    assert normalised(before, told.append) == after
    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


REFUSED = {
    "no JSON": ('{"a": ', "PLAN-E0331", "one JSON object"),
    "no object": ("[1]", "PLAN-E0331", "which contains [1]"),
    "a key twice": ('{"fp16": {}, "fp16": {}}', "PLAN-E0331", "the key fp16 twice"),
    "no number": ('{"gradient_clipping": NaN}', "PLAN-E0331", "NaN"),
    "deep": ("[" * 100_000, "PLAN-E0331", "one JSON object"),
    "large": (" " * (LARGEST + 1), "PLAN-E0331", "more than 262,144 bytes"),
    "no stage": ({"bf16": {"enabled": "auto"}}, "PLAN-E0332", "from 0 to 3"),
    "a stage as text": ({"zero_optimization": {"stage": "2"}}, "PLAN-E0332", "found '2'"),
    "stage 4": ({"zero_optimization": {"stage": 4}}, "PLAN-E0332", "found 4"),
    "true": ({"zero_optimization": True}, "PLAN-E0332", "stage"),
    "nothing whole": ({"zero_optimization": {"stage": 3}}, "PLAN-E0333", "set it to true"),
    "disks": ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, "PLAN-E0334", "cpu"),
    "a compiler": ({"zero_optimization": {"stage": 2, "zero_quantized_gradients": True}}, "PLAN-E0334", "compiles"),
    "weights of stage 2": ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "PLAN-E0340",
                           "expected stage 3"),
    "a key of no one": ({"zero_optimization": {"stage": 2, "overlap_com": True}}, "PLAN-E0335",
                        "did you mean overlap_comm"),
    "half a row": ({**STAGE_2, "train_micro_batch_size_per_gpu": 1.5}, "PLAN-E0336", "a positive whole number"),
    "both halves": ({**STAGE_2, "fp16": {"enabled": True}, "bf16": {"enabled": True}}, "PLAN-E0336",
                    "only one of the two"),
    "another optimizer service": ({**STAGE_2, "amp": {"enabled": True}}, "PLAN-E0337", "precision=16"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_cannot_train_is_refused(given, tmp_path, file, case):
    config, code, words = REFUSED[case]
    found = refused(given, tmp_path, file, config)
    assert [problem.code for problem in found] == [code]
    assert words in str(found[0])


@pytest.mark.parametrize(
    ("config", "parameters", "code", "words"),
    [
        (STAGE_2, {"auto_find_batch_size": True}, "PARAM-E0271", "per_device_train_batch_size=1"),
        (STAGE_2, {"optim": "adafactor"}, "PLAN-E0338", "set optim=adamw_torch"),
        ({**STAGE_2, "gradient_clipping": 0.3}, {"max_grad_norm": 0.7}, "PLAN-E0336", "0.3 with max_grad_norm=0.7"),
        ({**STAGE_2, "train_batch_size": 8}, {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4},
         "PLAN-E0336", "only one setting of the batch size"),
        ({**STAGE_2, "fp16": {"enabled": False}, "bf16": {"enabled": False}}, {"precision": "16"}, "PLAN-E0336",
         "set precision=32"),
        ({**STAGE_2, "fp16": {"enabled": True}}, {"number_of_gpu_to_use_finetuning": 0}, "PLAN-E0336", "without a GPU"),
    ],
)  # fmt: skip
def test_contradictions_with_the_parameters_are_refused(given, tmp_path, file, config, parameters, code, words):
    found = refused(given, tmp_path, file, config, **parameters)
    assert [problem.code for problem in found] == [code]
    assert words in str(found[0])


def test_no_file_a_secret_in_it_and_a_contradiction_in_words(given, tmp_path, file):
    assert [p.code for p in problems(given, tmp_path, deepspeed=str(tmp_path / "none.json"))] == ["URI-E0201"]
    assert [p.code for p in problems(given, tmp_path, deepspeed="false")] == ["PARAM-E0272"]
    file.write_text(json.dumps({**STAGE_2, "hub": "hf_" + "a" * 34}))
    with pytest.raises(SecurityRefusal):
        planned(given, tmp_path, deepspeed=str(file))


def test_without_the_package_the_plan_says_so(given, tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from steps.plan import packages

    def version(name: str) -> str:
        if name == "deepspeed":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(packages, "version", version)
    monkeypatch.setitem(sys.modules, "torch", None)  # as `running.py` does for a plan
    assert [p.code for p in problems(given, tmp_path)] == ["PLAN-E0311"]


def test_a_total_batch_is_shared_after_the_file_was_read(given, tmp_path, file):
    changes = {"total_train_batch_size": 8, "max_per_device_train_batch_size": 2}
    settings, _ = with_file(given, tmp_path, file, STAGE_3, **changes)
    assert settings.training.per_device_train_batch_size == 2
    assert settings.training.gradient_accumulation_steps == 4


# Memory


def memory(precision: str = "16", zero: dict | None = None, **changes):
    from steps.params.reading import read_parameters

    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", "precision": precision, **changes}
    parameters = read_parameters("chat_completion", given).parameters
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256}
    return estimate(parameters, recipe("causal_lm", "supervised"), config, 8_000_000_000, 2048, 80, zero=zero)


def test_what_lies_on_the_cpu_is_not_counted_on_the_gpu():
    plain, two, three = (memory(zero=zero and BUILT_IN[zero]["zero_optimization"]) for zero in (None, "2", "3"))
    assert plain.on_cpu == 0
    assert two.needed < plain.needed / 2
    assert three.needed < two.needed
    # A copy of the weights, their gradients and two states, 4 bytes each.
    assert two.on_cpu == 16 * 8_000_000_000
    # With the weights themselves in 16 bit.
    assert three.on_cpu == 18 * 8_000_000_000
    assert memory(zero=STAGE_2["zero_optimization"]).needed == plain.needed


def test_too_little_memory_beside_the_gpu_is_told(given, tmp_path, monkeypatch):
    from steps.plan import memory_checks

    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setattr(memory_checks, "GIB", 1)  # as if the tiny model were large
    small = {"instance_type_finetune": "cpu=2,memory=1Gi,gpu=nvidia.com/gpu"}
    _, told = planned(given, tmp_path, **small)
    assert any("choose a larger instance_type_finetune" in warning for warning in told["warnings"])


@pytest.mark.slow
def test_the_keys_are_those_of_the_deepspeed_that_is_installed():
    config = pytest.importorskip("deepspeed.runtime.zero.config")
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    from steps.launch.deepspeed_config import OFFLOAD_KEYS, OLD_ZERO_KEYS, ZERO_KEYS

    fields = config.DeepSpeedZeroConfig.model_fields
    known = {field.alias or name for name, field in fields.items()}
    assert known == ZERO_KEYS | {name for name in OLD_ZERO_KEYS if name in known} | {"cpu_offload_use_pin_memory"}
    for name, model in (
        ("offload_param", DeepSpeedZeroOffloadParamConfig),
        ("offload_optimizer", DeepSpeedZeroOffloadOptimizerConfig),
    ):
        assert set(model.model_fields) == OFFLOAD_KEYS[name]
    told = estimate_zero2_model_states_mem_needs(8_000_000_000, cpu_offload=True, additional_buffer_factor=1.0)
    ours = memory(zero=BUILT_IN["2"]["zero_optimization"])
    cpu, gpu = told[:2]
    assert (ours.on_cpu, ours.parts["weights"]) == (cpu, gpu)


# What public files hold: the values of the documentation of Hugging Face and of DeepSpeed, and of other tools.
AUTO = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto"}  # fmt: skip
OPTIMIZER = {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}}
SCHEDULER = {
    "type": "WarmupLR",
    "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
}
HALF = {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2,
        "min_loss_scale": 1}  # fmt: skip
ZERO_3 = {
    "stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True},
    "offload_param": {"device": "cpu", "pin_memory": True}, "overlap_comm": True, "contiguous_gradients": True,
    "sub_group_size": 1e9, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}  # fmt: skip
PUBLIC = {
    "zero2": {"fp16": HALF, "optimizer": OPTIMIZER, "scheduler": SCHEDULER, "zero_optimization": {
        "stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True}, "allgather_partitions": True,
        "allgather_bucket_size": 2e8, "overlap_comm": True, "reduce_scatter": True, "reduce_bucket_size": 2e8,
        "contiguous_gradients": True}, **AUTO, "steps_per_print": 2000, "wall_clock_breakdown": False},
    "zero3": {"fp16": HALF, "bf16": {"enabled": "auto"}, "optimizer": OPTIMIZER, "scheduler": SCHEDULER,
              "zero_optimization": ZERO_3, **AUTO, "steps_per_print": 2000, "wall_clock_breakdown": False},
    "zero3 for 16 processes": {
        "bf16": {"enabled": True}, "zero_optimization": ZERO_3, "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0},
    "zero1": {"zero_optimization": {"stage": 1}, "train_batch_size": 256},
    "untested": {"zero_allow_untested_optimizer": True, "fp16": HALF, "bf16": {"enabled": "auto"}, **AUTO,
                 "zero_optimization": {"stage": 2, "round_robin_gradients": True}},
    "profiled": {"zero_optimization": {"stage": 2}, "wall_clock_breakdown": True, "memory_breakdown": True,
                 "flops_profiler": {"enabled": True, "profile_step": 1}, "comms_logger": {"enabled": True},
                 "activation_checkpointing": {"partition_activations": True, "cpu_checkpointing": True},
                 "data_types": {"grad_accum_dtype": "fp32"}, "checkpoint": {"use_node_local_storage": False},
                 "prescale_gradients": False, "communication_data_type": "fp32", "dump_state": True,
                 "tensorboard": {"enabled": True, "output_path": "logs"}, "nebula": {"enabled": False}},
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLIC)
@pytest.mark.parametrize("gpus", [0, 1])
def test_public_files_are_accepted_and_a_step_has_the_rows_that_they_name(given, tmp_path, file, case, gpus):
    config = PUBLIC[case]
    _, told = with_file(given, tmp_path, file, config, number_of_gpu_to_use_finetuning=gpus)
    step = next(line["value"] for line in told["arithmetic"] if line["name"] == "sequences per optimizer step")
    assert step == (config["train_batch_size"] if isinstance(config.get("train_batch_size"), int) else 1)
