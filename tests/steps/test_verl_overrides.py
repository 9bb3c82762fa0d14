"""Our parameters as overrides of verl 0.9.1: its packaged configuration, composed by Hydra, has what was given."""

import random
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from steps.params.choice import OneOf
from steps.params.verl import VerlParams, VerlTraining
from steps.params.verl_settings import VerlSettings
from steps.verl.overrides import OVERRIDES, Paths, computed, overrides_of, written
from tests.verl_composer import Composer

PATHS = Paths("/data/model", "/data/train.parquet", "/data/validation.parquet", "/data/checkpoints")
ROLLOUT, MODEL = "actor_rollout_ref.rollout", "actor_rollout_ref.model"
CACHE = f"{ROLLOUT}.engine_kwargs.vllm.mm_processor_cache_gb"

# Parameters whose value has another form in verl: parameter → its other value, and what verl then has at which key.
OTHER_FORM: dict[str, tuple[Any, dict[str, Any]]] = {
    "actor_clip_ratio_high": (0.28, {"actor_rollout_ref.actor.clip_ratio_high": 0.28}),
    "actor_clip_ratio": (0.1, {f"actor_rollout_ref.actor.clip_ratio{end}": 0.1 for end in ("", "_low", "_high")}),
    "actor_model_target_modules": ("q_proj, v_proj", {f"{MODEL}.target_modules": ["q_proj", "v_proj"]}),
    "actor_model_exclude_modules": ("", {f"{MODEL}.exclude_modules": None}),
    "rollout_top_k": (50, {f"{ROLLOUT}.top_k": 50}),
    "rollout_val_temperature": (0.7, {
        f"{ROLLOUT}.val_kwargs.temperature": 0.7, f"{ROLLOUT}.val_kwargs.do_sample": True,
    }),
    "rollout_name": ("sglang", {f"{ROLLOUT}.name": "sglang"}),
    "algorithm_adv_estimator": ("gae", {"algorithm.adv_estimator": "gae", "critic.enable": True}),
    "total_training_steps": (7, {"trainer.total_training_steps": 7}),
    "trainer_max_ckpt_to_keep": (3, {
        "trainer.max_actor_ckpt_to_keep": 3, "trainer.max_critic_ckpt_to_keep": 3,
    }),
    "resume": ("/c/global_step_20", {
        "trainer.resume_mode": "resume_path", "trainer.resume_from_path": "/c/global_step_20",
    }),
}  # fmt: skip
# Values of texts and of numbers with bounds of their own.
OTHER: dict[str, Any] = {
    "data_image_key": "pictures", "project": "dates", "experiment": "second try",
    "actor_optim_lr_warmup_steps_ratio": 0.1, "rollout_gpu_memory_utilization": 0.4,
    "rollout_top_p": 0.9, "rollout_val_top_p": 0.8, "algorithm_gamma": 0.99,
    "algorithm_lam": 0.95,
}  # fmt: skip
NASTY = (
    r".*visual.*", r"^model\.layers\.(\d+)\.(q|k)_proj$", "two words", " around ", "it's", 'a "quoted" text', "$HOME",
    "${oc.env:HOME}", r"\${x}", r"\\${x}", "$${x}", "}${", "{a: 1}", "[a, b]", "a=b=c", "a,b", "null", "true", "12",
    "1e-3", "é ✓ 中文", "\\", "ends with \\", r"\'", "''", "#no comment", "key: value", "~", "%", "@", "!", "*", "&x",
    "tab\tinside",
)  # fmt: skip


KNOWN = {*OVERRIDES, *OTHER_FORM}


def settings(**given: Any) -> VerlSettings:
    return VerlSettings(**{"trainer_n_gpus_per_node": 8, "trainer_nnodes": 1, **given})


@pytest.fixture(scope="module")
def composer():
    composer = Composer()
    yield composer
    composer.close()


def composed(
    composer: Composer, given: VerlSettings, *keys: str, paths: Paths = PATHS, quickly=False
) -> dict[str, Any]:
    return composer.compose(overrides_of(given, paths), keys, quickly)


@pytest.fixture(scope="module")
def usual(composer) -> dict[str, Any]:
    """Every key of every parameter with the defaults."""
    keys = {key for name in VerlSettings.model_fields if name in KNOWN for key in expected_of(name)[1]}
    return composed(composer, settings(), *sorted(keys))


def choices(name: str) -> tuple[str, ...]:
    field = VerlSettings.model_fields[name]
    computed_names = [rule.names for rule in field.metadata if isinstance(rule, OneOf)]
    return computed_names[0] if computed_names else get_args(field.annotation)


def other_value(name: str) -> Any:
    """A value that differs from the default."""
    if name in OTHER:
        return OTHER[name]
    default = settings().__dict__[name]
    if names := choices(name):
        return next(one for one in names if one != default)
    return not default if isinstance(default, bool) else default + 1


def expected_of(name: str) -> tuple[Any, dict[str, Any]]:
    if name in OTHER_FORM:
        return OTHER_FORM[name]
    value = other_value(name)
    return value, {key.lstrip("+"): value for key in OVERRIDES[name]}


def test_seed_inputs_have_the_seeds_names_and_defaults():
    seed = {
        "ENGINE": "vllm", "data_train_batch_size": 512, "data_max_prompt_length": 1024,
        "data_max_response_length": 2048, "data_filter_overlong_prompts": True, "data_truncation": "error",
        "data_image_key": "images", "actor_optim_lr": 3e-6, "actor_model_use_remove_padding": True,
        "actor_strategy": "fsdp2", "actor_fsdp_config_offload_policy": True, "actor_ppo_mini_batch_size": 128,
        "actor_ppo_micro_batch_size_per_gpu": 10, "actor_model_lora_rank": 64, "actor_model_lora_alpha": 32,
        "actor_model_target_modules": "all-linear", "actor_model_exclude_modules": ".*visual.*",
        "actor_use_kl_loss": True, "actor_kl_loss_coef": 0.01, "actor_kl_loss_type": "low_var_kl",
        "actor_entropy_coeff": 0, "actor_model_enable_gradient_checkpointing": True,
        "actor_fsdp_param_offload": False, "actor_fsdp_optimizer_offload": False,
        "rollout_log_prob_micro_batch_size_per_gpu": 20, "rollout_tensor_model_parallel_size": 2,
        "rollout_name": "vllm", "rollout_dtype": "float16", "rollout_disable_mm_preprocessor_cache": True,
        "rollout_gpu_memory_utilization": 0.6, "rollout_enable_chunked_prefill": False,
        "rollout_enforce_eager": False, "rollout_free_cache_engine": False, "rollout_n": 5,
        "ref_log_prob_micro_batch_size_per_gpu": 20, "ref_fsdp_param_offload": True,
        "algorithm_adv_estimator": "grpo", "algorithm_use_kl_in_reward": False, "trainer_critic_warmup": 0,
        "trainer_save_freq": 20, "trainer_test_freq": 5, "trainer_total_epochs": 15,
    }  # fmt: skip
    p = VerlParams()
    assert {name: getattr(p, name) for name in seed} == seed
    # The seed's 8 and 1 contradict its number_of_gpu_to_use_finetuning=1; here they follow it.
    assert (p.trainer_n_gpus_per_node, p.trainer_nnodes, p.total_training_steps) == (0, 0, 0)


def test_every_parameter_has_its_keys():
    """But `images`, which only decides whether another parameter is sent."""
    assert {*OVERRIDES, *computed(settings())} == {*VerlSettings.model_fields} - {"images"}


PLACES = {
    "data_": "data.", "actor_model_": f"{MODEL}.", "actor_fsdp_config_": "actor_rollout_ref.actor.fsdp_config.",
    "actor_fsdp_": "actor_rollout_ref.actor.fsdp_config.", "actor_": "actor_rollout_ref.actor.",
    "rollout_val_": f"{ROLLOUT}.val_kwargs.", "rollout_": f"{ROLLOUT}.",
    "ref_fsdp_": "actor_rollout_ref.ref.fsdp_config.", "ref_": "actor_rollout_ref.ref.",
    "algorithm_": "algorithm.", "trainer_": "trainer.", "critic_": "critic.",
}  # fmt: skip
NAMED_OTHERWISE = {
    "shuffle_dataset": "data.shuffle",
    "seed": "data.seed",
    "total_training_steps": "trainer.total_training_steps",
    "rollout_disable_mm_preprocessor_cache": f"+{CACHE}",
    "algorithm_kl_coef": "algorithm.kl_ctrl.kl_coef",
    "critic_max_token_len_per_gpu": "critic.ppo_max_token_len_per_gpu",
    "trainer_max_ckpt_to_keep": "trainer.max_actor_ckpt_to_keep",
    "resume": "trainer.resume_mode",
    "project": "trainer.project_name",
    "experiment": "trainer.experiment_name",
}


@pytest.mark.parametrize("name", [name for name in VerlSettings.model_fields if name != "images"])
def test_a_parameter_has_the_key_that_its_name_says(name):
    keys = [*OVERRIDES.get(name, ()), *computed(settings(images=True)).get(name, ())]
    if name in NAMED_OTHERWISE:
        assert NAMED_OTHERWISE[name] in keys
    else:
        place = next(place for place in PLACES if name.startswith(place))
        assert _flat(PLACES[place] + name.removeprefix(place)) == _flat(keys[0])


def _flat(key: str) -> str:
    return key.replace(".", "_")


def test_all_that_is_trained_or_compared_is_shared_the_same_way():
    """verl would take each other strategy of a reference or critic without a word."""
    given = overrides_of(settings(actor_strategy="fsdp"), PATHS)
    places = ("actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic")
    assert {one for one in given if "strategy=" in one} == {f"{place}.strategy='fsdp'" for place in places}


@pytest.mark.slow
def test_defaults_compose(composer):
    expected = {
        "critic.enable": False,
        f"{ROLLOUT}.top_k": -1,
        "trainer.logger": ["console", "file"],
        "actor_rollout_ref.actor.checkpoint.load_contents": ["model", "optimizer", "extra"],
        "critic.checkpoint.load_contents": ["model", "optimizer", "extra"],
        f"{MODEL}.path": PATHS.model,
        "critic.model.path": PATHS.model,
        "data.train_files": PATHS.train,
        "data.val_files": PATHS.validation,
        "trainer.default_local_dir": PATHS.checkpoints,
        "trainer.max_actor_ckpt_to_keep": None,
        "trainer.resume_mode": "auto",
        "reward.custom_reward_function.path": None,
        f"{ROLLOUT}.engine_kwargs.vllm": {},
        # What docs/verl.md and the plan say holds for this trainer, and for batches counted in completions.
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "sync",
        "actor_rollout_ref.actor.use_dynamic_bsz": False,
        f"{ROLLOUT}.log_prob_use_dynamic_bsz": False,
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": False,
        "data.gen_batch_size": None,
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size": 1,
    }
    assert composed(composer, settings(), *expected) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VerlSettings.model_fields if name in KNOWN])
def test_a_parameter_alone_changes_what_it_stands_for(name, composer, usual):
    value, expected = expected_of(name)
    changed = composed(composer, settings(**{name: value}), *expected, quickly=True)
    assert changed == expected
    assert all(type(changed[key]) is type(one) for key, one in expected.items())
    assert all(usual[key] != one for key, one in expected.items()), f"{name} changes nothing"


@pytest.mark.slow
def test_the_image_cache_is_switched_off_for_vllm_with_images_only(composer):
    assert composed(composer, settings(images=True), CACHE) == {CACHE: 0}
    kept = settings(images=True, rollout_disable_mm_preprocessor_cache=False)
    other = settings(images=True, rollout_name="sglang")
    assert not [one for case in (kept, other, settings()) for one in overrides_of(case, PATHS) if "mm_processor" in one]


@pytest.mark.slow
def test_reward_file_and_resuming(composer):
    expected = {
        "reward.custom_reward_function.path": "/rewards/my=reward.py",
        "reward.custom_reward_function.name": "score",
        "trainer.resume_mode": "disable",
        "trainer.resume_from_path": None,
    }
    paths = Paths("/m", "/t", "/v", "/c", "/rewards/my=reward.py", "score")
    assert composed(composer, settings(resume="disable"), *expected, paths=paths) == expected


def random_settings(number: int) -> dict[str, Any]:
    """Return a value for every parameter; choices go round, so that 20 sets have all of them."""
    draw = random.Random(number)
    given: dict[str, Any] = {}
    for name in VerlSettings.model_fields:
        default = getattr(settings(), name)
        if name in OTHER_FORM and name not in ("rollout_name", "algorithm_adv_estimator"):
            given[name] = draw.choice([default, OTHER_FORM[name][0]])
        elif names := choices(name):
            given[name] = names[number % len(names)]
        elif isinstance(default, bool):
            given[name] = draw.random() < 0.5
        elif isinstance(default, int):
            given[name] = draw.randrange(1, 10_000)
        elif isinstance(default, float):
            given[name] = round(draw.uniform(0.01, 0.99), draw.randrange(2, 12)) * draw.choice([1, 1e-4, 1e-9])
            given[name] = max(given[name], 1e-3) if name.startswith("rollout_") else given[name]
        else:
            given[name] = draw.choice(NASTY)
    return given


@pytest.mark.slow
def test_the_quick_way_composes_the_same(composer):
    """On which the test of each parameter alone relies."""
    overrides = overrides_of(VerlSettings(**random_settings(20)), PATHS)
    parts = ("actor_rollout_ref", "critic", "data", "algorithm", "trainer", "reward")
    assert composer.compose(overrides, parts, quickly=True) == composer.compose(overrides, parts)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_random_set_of_all_parameters_arrives_as_given(number, composer):
    given = random_settings(number)
    expected = {key.lstrip("+"): given[name] for name, keys in OVERRIDES.items() for key in keys}
    arrived = composed(composer, VerlSettings(**given), *expected, "critic.enable")
    assert arrived == {**expected, "critic.enable": given["algorithm_adv_estimator"] == "gae"}
    assert all(type(arrived[key]) is type(value) for key, value in expected.items())


@pytest.mark.slow
def test_every_text_arrives_as_given(composer):
    lists = composer.compose(["+texts=" + written(list(NASTY)), f"{ROLLOUT}.name=vllm"], ["texts"])
    assert lists == {"texts": list(NASTY)}
    alone = {f"text{number}": text for number, text in enumerate(NASTY)}
    each = [f"+{key}={written(text)}" for key, text in alone.items()]
    assert composer.compose([*each, f"{ROLLOUT}.name=vllm"], alone) == alone


@pytest.mark.slow
@pytest.mark.parametrize(("one", "two", "three"), [NASTY[:3], ("${oc.env:HOME}", "it's a=b, c", "\\\\${x}\\")])
def test_texts_of_parameters_and_paths_arrive_as_given(one, two, three, composer):
    given = settings(data_image_key=one, project=two, experiment=three, resume=f"/{one}/global_step_5",
                     actor_model_exclude_modules=f"{one}|.*",
                     actor_model_target_modules=f"{three}|[qv]_proj")  # fmt: skip
    expected = {
        "data.image_key": one,
        "trainer.project_name": two,
        "trainer.experiment_name": three,
        "trainer.resume_from_path": f"/{one}/global_step_5",
        f"{MODEL}.exclude_modules": f"{one}|.*",
        f"{MODEL}.target_modules": f"{three}|[qv]_proj",
        f"{MODEL}.path": one,
        "critic.model.path": one,
        "data.train_files": two,
        "data.val_files": three,
        "trainer.default_local_dir": one,
        "reward.custom_reward_function.path": two,
        "reward.custom_reward_function.name": three,
    }
    assert composed(composer, given, *expected, paths=Paths(one, two, three, one, two, three)) == expected


@pytest.mark.slow
def test_verl_refuses_keys_that_it_does_not_know(composer):
    with pytest.raises(ValueError, match="no_such_key"):
        composer.compose([*overrides_of(settings(), PATHS), "actor_rollout_ref.actor.no_such_key=1"], [])
    added = [one.removeprefix("+") for one in overrides_of(settings(images=True), PATHS) if one.startswith("+")]
    assert len(added) == 2
    for one in added:
        with pytest.raises(ValueError, match=r"not in struct|Could not override"):
            composer.compose([one, f"{ROLLOUT}.name=vllm"], [])


def test_values_are_written_in_hydras_grammar():
    assert [written(one) for one in (None, True, 3, 1e-06, "a", "", ["x", "y z"])] == [
        "null", "true", "3", "1e-06", "'a'", "''", "['x','y z']",
    ]  # fmt: skip
    assert written("it's") == r"'it\'s'"
    assert written("${x}") == r"'\${x}'"


def test_one_name_of_a_layer_is_a_list_too():
    """PEFT takes a single text for an expression that matches a layer's whole path."""
    key = f"{MODEL}.target_modules"
    assert computed(settings(actor_model_target_modules="q_proj"))["actor_model_target_modules"] == {key: ["q_proj"]}
    assert computed(settings(actor_model_target_modules=".*q_proj"))["actor_model_target_modules"] == {key: ".*q_proj"}


def test_the_settings_hold_what_the_parameters_leave_open():
    p = VerlParams(ENGINE="sglang", data_train_files="/rows.parquet")
    made = VerlSettings.resolved(p, images=True)
    assert (made.rollout_name, made.trainer_n_gpus_per_node, made.trainer_nnodes, made.images) == ("sglang", 1, 1, True)
    assert VerlSettings(**made.short()) == made
    assert not {"ENGINE", "data_train_files", "data_val_files"} & set(VerlSettings.model_fields)


def test_false_is_false():
    p = VerlParams(data_filter_overlong_prompts="false", rollout_enforce_eager="False", actor_use_kl_loss="0")
    assert (p.data_filter_overlong_prompts, p.rollout_enforce_eager, p.actor_use_kl_loss) == (False, False, False)


@pytest.mark.parametrize("engine", ["vllm", "trl"])
def test_rollout_name_counts_where_engine_names_none(engine):
    p = VerlParams(ENGINE=engine, rollout_name="trtllm")
    assert (p.rollout, p.uses_verl, p.all_conflicts()) == ("trtllm", engine != "trl", [])


@pytest.mark.parametrize(
    ("given", "code", "where"),
    [
        ({"ENGINE": "sglang", "rollout_name": "trtllm"}, "PARAM-E0347", "ENGINE and rollout_name"),
        ({"rollout_n": 1}, "PARAM-E0344", "rollout_n"),
        ({"trainer_critic_warmup": 3}, "PARAM-E0345", "trainer_critic_warmup"),
        ({"algorithm_adv_estimator": "gae", "critic_max_token_len_per_gpu": 3071}, "PARAM-E0346",
         "critic_max_token_len_per_gpu"),
        ({"actor_clip_ratio_high": -0.5}, "PARAM-E0341", "actor_clip_ratio_high"),
        ({"actor_model_exclude_modules": ".*(visual"}, "PARAM-E0342", "actor_model_exclude_modules"),
        ({"actor_model_lora_rank": 0, "actor_model_lora_alpha": 16}, "PARAM-E0343", "actor_model_lora_alpha"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(given, code, where):
    assert [(one.code, one.where) for one in VerlParams(**given).all_conflicts()] == [(code, where)]


@pytest.mark.parametrize(
    "given",
    [
        {"ENGINE": "sglang", "rollout_name": "sglang"},
        {"rollout_n": 1, "algorithm_adv_estimator": "reinforce_plus_plus"},
        {"algorithm_adv_estimator": "gae", "trainer_critic_warmup": 3, "critic_max_token_len_per_gpu": 3072},
        {"actor_model_lora_rank": 0},
        {"actor_model_lora_rank": 0, "actor_model_exclude_modules": ""},
        {"actor_clip_ratio_high": -1},
    ],
)
def test_what_fits_is_accepted(given):
    assert VerlParams(**given).all_conflicts() == []


def test_the_page_names_the_key_of_every_parameter():
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text("utf-8")
    _, keys = page.split("## Our names and verl's keys\n")
    told = dict(re.findall(r"^\| `(\w+)` \| (`.+`) \|", keys, re.MULTILINE))
    known = {name: [*OVERRIDES.get(name, ()), *computed(settings(images=True)).get(name, ())]
             for name in VerlTraining.model_fields}  # fmt: skip
    assert {name: [key.strip("`") for key in of.split(", ")] for name, of in told.items()} == known
