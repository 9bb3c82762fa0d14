"""verl's parameters as a training without verl: each has an effect or a reason, and the training is the same."""

import json
from pathlib import Path

import pytest
from conftest import write_jsonl
from rewarded_rows import letters, prompt_rows, settings_with, write_prompts
from training_inputs import train

from steps.params.lora import LoraParams
from steps.params.reward_training import RewardTraining
from steps.params.rewarded import RewardedParameters
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.verl import VerlParams
from steps.params.verl_training import (
    BY_SOURCE,
    COMPUTED,
    FIXED,
    SAME,
    WITHOUT_VERL,
    VerlTrainingParameters,
)
from steps.plan.deciding import decide
from steps.plan.rewards import look_at_rewards
from steps.plan.settings import settings_of
from steps.rewards.asked import load_asked
from steps.rewards.library import REWARDS
from steps.tasks import verl

CPU = {"ENGINE": "trl", "number_of_gpu_to_use_finetuning": 0, "reward_funcs": "length", "pytorch_model_path": "m",
       "data_train_files": "t.jsonl"}  # fmt: skip
SMALL = {**CPU, "data_train_batch_size": 4, "actor_ppo_mini_batch_size": 2, "actor_ppo_micro_batch_size_per_gpu": 4,
         "rollout_n": 4}  # fmt: skip
# Parameters that decide whether a training is possible, and change nothing of one that is.
CHECKED = {"ENGINE", "actor_kl_loss_type", "actor_entropy_coeff", "algorithm_use_kl_in_reward"}


def parameters(**given) -> VerlTrainingParameters:
    return VerlTrainingParameters(**{**CPU, **given})


def problems(**given) -> list[tuple[str, str]]:
    return [(found.code, found.where) for found in parameters(**given).all_conflicts()]


def computed(p: VerlTrainingParameters) -> list:
    return [group.of(p) for group in (TrainingParams, RewardTraining, LoraParams, CheckpointParams)]


def test_every_other_name_is_one_of_a_training_and_no_input_any_more():
    names = [*SAME, *COMPUTED, *FIXED]
    assert len(names) == len(set(names))
    assert set(names) <= set(RewardedParameters.model_fields)
    assert not set(names) & set(VerlTrainingParameters.model_fields)


def test_what_is_fixed_is_a_value_that_the_parameter_may_have():
    p = parameters()
    for name, value in FIXED.items():
        owner = next(
            base for base in RewardedParameters.__mro__ if name in getattr(base, "__annotations__", {})
        )  # fmt: skip
        owner.model_validate({name: value})
        assert getattr(p, name) == value


def test_every_parameter_of_verl_has_an_effect_or_a_reason():
    used = {*SAME.values(), *(name for of, _ in COMPUTED.values() for name in of), *CHECKED}
    own = {"shuffle_dataset", "seed"}  # read under their own names
    assert set(VerlParams.model_fields) == (used & set(VerlParams.model_fields)) | set(WITHOUT_VERL) | own
    assert not used & set(WITHOUT_VERL)


OTHER = {
    "data_train_batch_size": 8, "data_max_prompt_length": 99, "data_max_response_length": 99,
    "actor_optim_lr": 1e-2, "actor_optim_lr_scheduler_type": "cosine", "actor_optim_lr_warmup_steps_ratio": 0.1,
    "actor_optim_weight_decay": 0.5, "actor_optim_clip_grad": 0.5, "actor_model_enable_gradient_checkpointing": False,
    "actor_ppo_mini_batch_size": 1, "actor_ppo_micro_batch_size_per_gpu": 2, "actor_ppo_epochs": 2,
    "actor_clip_ratio": 0.1, "actor_clip_ratio_high": 0.3, "actor_loss_agg_mode": "seq-mean-token-mean",
    "actor_use_kl_loss": False, "actor_kl_loss_coef": 0.5, "actor_model_lora_rank": 4, "actor_model_lora_alpha": 4,
    "actor_model_target_modules": "q_proj", "rollout_n": 2, "rollout_temperature": 0.5, "rollout_top_p": 0.5,
    "rollout_top_k": 5, "rollout_gpu_memory_utilization": 0.1, "algorithm_adv_estimator": "rloo",
    "algorithm_norm_adv_by_std_in_grpo": False, "trainer_total_epochs": 2, "total_training_steps": 3,
    "trainer_save_freq": 3, "trainer_max_ckpt_to_keep": 3, "trainer_test_freq": -1, "shuffle_dataset": False, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_value_changes_the_training(name):
    assert computed(parameters(**SMALL)) != computed(parameters(**{**SMALL, name: OTHER[name]}))


def test_all_that_may_change_the_training_was_tried():
    settled = {"data_train_files", "data_val_files", "data_filter_overlong_prompts", "data_truncation",
               "rollout_tensor_model_parallel_size"}  # fmt: skip
    assert set(OTHER) | settled | set(WITHOUT_VERL) | CHECKED == set(VerlParams.model_fields)


def test_a_step_of_verl_is_a_generation():
    p = parameters(**SMALL, total_training_steps=6, trainer_save_freq=2, trainer_test_freq=3, actor_ppo_epochs=2)
    assert (p.gradient_accumulation_steps, p.steps_per_generation) == (2, 4)  # of 4 completions
    # A step has 4 × 4 completions: 2 updates of 8, twice.
    assert (p.max_steps, p.save_steps, p.eval_steps) == (24, 8, 12)
    assert p.sequences_per_step == 8


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"algorithm_adv_estimator": "gae"}, [("PARAM-E0349", "algorithm_adv_estimator")]),
        ({"algorithm_adv_estimator": "opo"}, [("PARAM-E0349", "algorithm_adv_estimator")]),
        ({"actor_loss_agg_mode": "token-sum"}, [("PARAM-E0349", "actor_loss_agg_mode")]),
        ({"actor_kl_loss_type": "abs"}, [("PARAM-E0349", "actor_kl_loss_type")]),
        ({"actor_kl_loss_type": "abs", "actor_use_kl_loss": False}, []),
        ({"data_truncation": "right"}, []),
        ({"data_truncation": "right", "data_filter_overlong_prompts": False}, [("PARAM-E0349", "data_truncation")]),
        ({"data_truncation": "left", "data_filter_overlong_prompts": False}, []),
        ({"algorithm_use_kl_in_reward": True}, [("PARAM-E0349", "algorithm_use_kl_in_reward")]),
        ({"actor_entropy_coeff": 0.1}, [("PARAM-E0349", "actor_entropy_coeff")]),
        ({"reward_funcs": ""}, []),
        ({"reward_funcs": "", "ENGINE": "vllm"}, []),
        ({"reward_funcs": "", "custom_reward_function_path": "r.py"}, []),
        ({"custom_reward_function_path": "r.py"}, [("PARAM-E0352", "custom_reward_function_path")]),
        ({"custom_reward_function_path": "r.py", "ENGINE": "vllm"}, [("PARAM-E0352", "custom_reward_function_path")]),
        ({"data_train_batch_size": 200}, [("PARAM-E0351", "data_train_batch_size")]),
        ({"actor_ppo_micro_batch_size_per_gpu": 7}, [("PARAM-E0351", "actor_ppo_micro_batch_size_per_gpu")]),
        ({"actor_ppo_micro_batch_size_per_gpu": 7, "ENGINE": "vllm", "algorithm_adv_estimator": "gae"}, []),
    ],
)
def test_what_only_verl_can_do_is_refused_without_it(given, told):
    assert problems(**given) == told


@pytest.mark.parametrize(
    ("given", "rewards", "weights"),
    [
        ({}, ["length"], [1]),
        ({"reward_funcs": ""}, ["by_source"], [1]),
        ({"reward_funcs": " , "}, ["by_source"], [1]),
        ({"reward_funcs": "by_source, length", "reward_weights": "1,0.1"}, ["by_source", "length"], [1, 0.1]),
        ({"reward_funcs": "", "custom_reward_function_path": "a/r.py"}, ["a/r.py:compute_score"], [1]),
        (
            {"reward_funcs": "", "custom_reward_function_path": "r.py", "reward_weights": "2"},
            ["r.py:compute_score"],
            [2],
        ),
    ],
)
def test_rewards_are_those_that_are_named_or_the_sources(given, rewards, weights):
    p = parameters(**given)
    assert (p.rewards, p.reward_weight_list) == (rewards, weights)


def test_the_reward_by_source_is_one_of_the_library():
    assert BY_SOURCE in REWARDS


def test_the_fix_of_a_batch_can_be_followed():
    for name, size in (("actor_ppo_micro_batch_size_per_gpu", 7), ("data_train_batch_size", 200)):
        (problem,) = parameters(**{name: size}).all_conflicts()
        for fixed in problem.fix.removeprefix("set it to ").split(" or "):
            assert problems(**{name: int(fixed)}) == []


@pytest.mark.slow
def test_a_model_is_trained_as_with_the_parameters_of_grpo(model, tokenizer, tmp_path, local_root):
    """The same rows and rewards: the losses are those of the same training by its own names."""
    reward = letters(tmp_path)
    data = write_prompts(tmp_path / "data", tokenizer, train=prompt_rows(8), validation=prompt_rows(4))
    p = parameters(**SMALL, data_max_prompt_length=48, data_max_response_length=8, actor_model_lora_rank=0,
                   actor_optim_lr=1e-3, total_training_steps=2, trainer_test_freq=-1, trainer_save_freq=100,
                   actor_kl_loss_coef=0.0, actor_model_enable_gradient_checkpointing=False)  # fmt: skip
    ours = FinetuneSettings(
        pipeline="verl_finetune", max_length=64, training=TrainingParams.of(p), lora=LoraParams.of(p),
        rewarded=RewardTraining.of(p), rewards=RewardSettings(reward_funcs=reward),
    )  # fmt: skip
    theirs = settings_with(
        reward,
        {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
         "weight_decay": 0.01, "lr_scheduler_type": "constant", "logging_steps": 1,
         "gradient_checkpointing": "false"},
        {"num_generations": 4, "max_completion_length": 8, "max_prompt_length": 48, "beta": 0.0, "epsilon": 0.2,
         "steps_per_generation": 4},
    )  # fmt: skip
    traces = []
    for name, settings in (("ours", ours), ("theirs", theirs)):
        train(settings, model, data, tmp_path / name)
        history = json.loads((tmp_path / name / "tuned/history.json").read_text())
        traces.append([point["loss"] for point in history["points"]])
    assert len(traces[0]) == 4
    assert traces[0] == traces[1]
    assert any(loss != 0 for loss in traces[0])


def test_the_plan_settles_the_rewards_that_no_parameter_names(tmp_path):
    found = look_at_rewards(parameters(reward_funcs=""))
    assert (found.settings.rewards, found.columns) == (["by_source"], ("ground_truth", "data_source"))
    file = tmp_path / "own.py"
    file.write_text("def compute_score(data_source, solution_str, ground_truth, extra_info=None): return 1.0\n")
    found = look_at_rewards(parameters(reward_funcs="", custom_reward_function_path=str(file)))
    assert found.settings.rewards == [f"{file}:compute_score"] == [*found.settings.digests]
    assert load_asked(found.settings).score(["?"], ["a"], {"data_source": ["x"], "ground_truth": ["a"]}).totals == [1.0]


def test_the_page_has_every_other_name():
    page = (Path(__file__).parents[2] / "docs/verl.md").read_text("utf-8")
    told = {**{name: (of,) for name, of in SAME.items()}, **{name: of for name, (of, _) in COMPUTED.items()}}
    missing = [name for name, of in told.items() if f"| `{name}` | {', '.join(f'`{one}`' for one in of)} |" not in page]
    assert missing == []


def test_any_source_is_accepted_with_rewards_and_other_rewards_prepare_no_rows_again(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    rows = [
        {"data_source": "mine", "prompt": row["problem"], "reward_model": {"style": "rule", "ground_truth": "4"}}
        for row in prompt_rows(40)
    ]
    given = {**SMALL, "pytorch_model_path": str(tiny_model), "rollout_n": 4,
             "data_train_files": str(write_jsonl(tmp_path / "rows.jsonl", rows)), "actor_model_lora_rank": 0,
             "data_max_prompt_length": 64, "data_max_response_length": 16}  # fmt: skip
    by_reward = {
        name: settings_of(decide("verl_finetune", {**given, "reward_funcs": name}))["data"]
        for name in ("length", "exact_answer", "by_source")
    }
    faults = {
        name: [fault.code for fault in verl.check_row(rows[0], verl.Columns(**settings.columns))]
        for name, settings in by_reward.items()
    }
    assert faults == {"length": [], "exact_answer": [], "by_source": ["DATA-E1531"]}
    assert by_reward["length"].columns == by_reward["exact_answer"].columns
