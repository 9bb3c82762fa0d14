"""The plan of a training with verl: its table, what is refused, and that verl 0.9.1 refuses the same.

verl cannot be imported here, as its package imports Ray. Its checks that need nothing but numbers are compiled from the
installed source and called; of those in the middle of training code, the source must have the line that the plan is
made after, so that another version of verl fails here.
"""

import ast
import inspect
import math
import random
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest

import steps.params.verl as declared
import steps.params.verl_training as without_verl
import steps.plan.images as images
import steps.plan.memory_checks as memory_checks
import steps.plan.sweeps as sweeps
import steps.plan.verl as plan
import steps.plan.verl_memory as verl_memory
from steps.params.compute import ComputeParams
from steps.params.divisible import divisor_near, divisors_near, multiples_near
from steps.params.verl import ESTIMATORS, LARGEST_RANK, NOT_COMPUTED, VerlParams
from steps.plan.verl import (
    Step,
    asked,
    length_problems,
    notes,
    row_problems,
    size_problems,
    steps_of,
    table,
)
from tests.verl_composer import LIBRARIES

VERL = LIBRARIES / "verl"


class OnMachines(VerlParams, ComputeParams):
    """As the pipeline's parameters: with the GPUs that the task requests."""


def params(**given: Any) -> VerlParams:
    return VerlParams(**{"trainer_n_gpus_per_node": 8, **given})


def values(p: VerlParams, rows: int | None) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in table(p, rows, "all")}


def test_the_table_of_the_seeds_defaults_on_eight_gpus():
    assert values(params(), 7473) == {
        "longest sequence": 3072,
        "GPUs": 8,
        "prompts per step": 512,
        "completions per step": 2560,
        "completions per GPU and step": 320,
        "updates per step": 4,
        "completions per update": 640,
        "micro-batches per GPU": 8,
        "training rows": 7473,
        "steps per epoch": 14,
        "steps": 210,
        "optimizer steps": 840,
        "completions in all": 537_600,
    }


@pytest.mark.parametrize(
    ("given", "rows", "expected"),
    [
        ({"trainer_nnodes": 2}, None, {"GPUs": 16, "completions per GPU and step": 160, "micro-batches per GPU": 4}),
        ({"actor_ppo_epochs": 3}, None, {"updates per step": 12, "steps": "known after prepare_data"}),
        ({"total_training_steps": 9}, None, {"steps": 9}),
        ({"total_training_steps": 9}, 1024, {"steps per epoch": 2, "steps": 9}),
        ({"trainer_total_epochs": 2}, 1023, {"steps per epoch": 1, "steps": 2}),
        # 500 prompts do not fill four mini-batches of 128: verl adds 12 × 5 empty completions.
        ({"data_train_batch_size": 500}, None, {"completions per step": 2500, "completions per GPU and step": 320,
                                               "updates per step": 4}),
    ],
)  # fmt: skip
def test_the_table_follows_the_parameters(given, rows, expected):
    found = values(params(**given), rows)
    assert {name: found[name] for name in expected} == expected


# Parameters → the problems: code, parameter, and the values that the fix names.
REFUSED: list[tuple[dict[str, Any], list[tuple[str, str, str]]]] = [
    ({}, []),
    ({"trainer_n_gpus_per_node": 1, "rollout_tensor_model_parallel_size": 1}, []),
    ({"trainer_n_gpus_per_node": 2, "trainer_nnodes": 4}, []),
    ({"trainer_n_gpus_per_node": 4, "trainer_nnodes": 2, "rollout_tensor_model_parallel_size": 8}, []),
    ({"rollout_tensor_model_parallel_size": 3}, [
        ("PLAN-E0532", "rollout_tensor_model_parallel_size",
         "rollout_tensor_model_parallel_size=2, or trainer_n_gpus_per_node=9"),
    ]),
    ({"trainer_n_gpus_per_node": 4, "rollout_tensor_model_parallel_size": 8}, [
        ("PLAN-E0532", "rollout_tensor_model_parallel_size",
         "rollout_tensor_model_parallel_size=4, or trainer_n_gpus_per_node=8"),
    ]),
    ({"data_train_batch_size": 64}, [
        ("PLAN-E0533", "actor_ppo_mini_batch_size", "64 or less, or data_train_batch_size to 128 or more"),
    ]),
    ({"actor_ppo_mini_batch_size": 100, "data_train_batch_size": 504}, [
        ("PLAN-E0534", "actor_ppo_mini_batch_size", "to 96 or 104"),
    ]),
    ({"data_train_batch_size": 500}, [("PLAN-E0536", "data_train_batch_size", "to 496 or 504")]),
    ({"actor_ppo_micro_batch_size_per_gpu": 9}, [
        ("PLAN-E0537", "actor_ppo_micro_batch_size_per_gpu", "to 8 or 10"),
    ]),
    ({"actor_ppo_micro_batch_size_per_gpu": 90}, [("PLAN-E0537", "actor_ppo_micro_batch_size_per_gpu", "to 80")]),
    ({"rollout_log_prob_micro_batch_size_per_gpu": 24}, [
        ("PLAN-E0537", "rollout_log_prob_micro_batch_size_per_gpu", "to 20 or 32"),
    ]),
    # With an adapter, or without a reference, its micro-batches are not used.
    ({"ref_log_prob_micro_batch_size_per_gpu": 24}, []),
    ({"ref_log_prob_micro_batch_size_per_gpu": 24, "actor_model_lora_rank": 0, "actor_use_kl_loss": False}, []),
    ({"ref_log_prob_micro_batch_size_per_gpu": 24, "actor_model_lora_rank": 0}, [
        ("PLAN-E0537", "ref_log_prob_micro_batch_size_per_gpu", "to 20 or 32"),
    ]),
    ({"data_train_batch_size": 128}, []),
    ({"actor_model_lora_rank": 512}, []),
    ({"actor_model_lora_rank": 513}, [("PLAN-E0535", "actor_model_lora_rank", "to 512 or less, or to 0")]),
    ({"actor_model_lora_rank": 513, "ENGINE": "sglang"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), REFUSED, ids=lambda one: str(one)[:60])
def test_what_verl_would_stop_at_is_refused(given, expected):
    problems = list(size_problems(params(**given)))
    assert [(one.code, one.where) for one in problems] == [(code, where) for code, where, _ in expected]
    assert all(fix in problem.fix for problem, (_, _, fix) in zip(problems, expected, strict=True))


def test_the_seeds_contradicting_gpus_are_one_message():
    """Its defaults are 1 GPU, 8 GPUs, and 2 GPUs for each copy that writes completions."""
    [problem] = size_problems(OnMachines())
    assert problem.found == "2 with number_of_gpu_to_use_finetuning=1"
    assert "rollout_tensor_model_parallel_size=1, or number_of_gpu_to_use_finetuning=2" in problem.fix
    [told] = OnMachines(trainer_n_gpus_per_node=8).all_conflicts()
    assert (told.code, told.where) == ("PARAM-E0348", "trainer_n_gpus_per_node and number_of_gpu_to_use_finetuning")
    assert "number_of_gpu_to_use_finetuning=8" in told.fix
    agreed = OnMachines(trainer_n_gpus_per_node=8, number_of_gpu_to_use_finetuning=8, trainer_nnodes=1)
    assert (agreed.all_conflicts(), list(size_problems(agreed))) == ([], [])
    from_the_task = OnMachines(number_of_gpu_to_use_finetuning=4, num_nodes_finetune=3)
    assert (from_the_task.gpus_per_node, from_the_task.nodes) == (4, 3)


def test_without_gpus_only_the_other_engine_trains():
    [problem] = size_problems(OnMachines(number_of_gpu_to_use_finetuning=0))
    assert (problem.code, problem.where) == ("PLAN-E0531", "number_of_gpu_to_use_finetuning")
    assert "ENGINE=trl" in problem.fix
    assert asked(OnMachines(number_of_gpu_to_use_finetuning=0, ENGINE="trl")) is None
    assert asked(params()) is not None


@pytest.mark.parametrize("number", range(300))
def test_every_fix_works(number):
    """A value that a fix names is accepted in place of the refused one."""
    draw = random.Random(number)
    given = {
        "trainer_n_gpus_per_node": draw.randrange(1, 17),
        "rollout_tensor_model_parallel_size": 1,
        "rollout_n": draw.randrange(2, 9),
        "actor_ppo_mini_batch_size": draw.randrange(1, 300),
        "data_train_batch_size": draw.randrange(300, 900),
        "actor_ppo_micro_batch_size_per_gpu": draw.randrange(1, 40),
        "rollout_log_prob_micro_batch_size_per_gpu": draw.randrange(1, 40),
        "actor_model_lora_rank": 0,
    }
    problems = list(size_problems(params(**given)))
    for problem in problems:
        named = re.fullmatch(rf"set {problem.where} to (\d+)(?: or (\d+))?", problem.fix)
        for value in filter(None, named.groups()):
            left = [one.where for one in size_problems(params(**{**given, problem.where: int(value)}))]
            assert problem.where not in left, (problem.fix, given)
    assert problems or all(share % size == 0 for share, size in _shares(params(**given)))


def _shares(p: VerlParams) -> list[tuple[int, int]]:
    gpus = p.gpus_per_node
    return [(p.actor_ppo_mini_batch_size * p.rollout_n, gpus), (p.data_train_batch_size * p.rollout_n, gpus),
            (p.actor_ppo_mini_batch_size * p.rollout_n // gpus, p.actor_ppo_micro_batch_size_per_gpu)]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "rows", "code", "fix"),
    [
        ({}, 511, "PLAN-E0539", "add rows, or lower data_train_batch_size, and with it "
                             "actor_ppo_mini_batch_size, to 504"),
        ({}, 7, "PLAN-E0539", "add rows"),
        ({}, 0, "PLAN-E0539", "add rows"),
        ({"total_training_steps": 31}, 1100, "PLAN-E0540", "set trainer_total_epochs=16, or leave "
                                                                 "total_training_steps out"),
        ({"algorithm_adv_estimator": "gae", "trainer_critic_warmup": 31}, 1100, "PLAN-E0541", "lower it, or "
                                                                                       "train longer"),
    ],
)  # fmt: skip
def test_rows_that_make_no_training_are_refused(given, rows, code, fix):
    [problem] = row_problems(params(**given), rows, "rows.jsonl")
    assert (problem.code, problem.fix) == (code, fix)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({}, 512),
        ({}, None),
        ({"total_training_steps": 30}, 1100),
        ({"algorithm_adv_estimator": "gae", "trainer_critic_warmup": 30}, 1100),
    ],
)
def test_rows_that_fill_steps_are_accepted(given, rows):
    assert list(row_problems(params(**given), rows, "rows.jsonl")) == []


def test_prompts_and_completions_fit_the_model():
    assert list(length_problems(params(), None)) == list(length_problems(params(), 3072)) == []
    [short] = length_problems(params(), 3071)
    assert "data_max_prompt_length to at most 1023" in short.fix
    [shorter] = length_problems(params(), 2048)
    assert "data_max_response_length below 2048" in shorter.fix


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"data_train_batch_size": 496}, ["80 empty completions"]),
        ({"actor_strategy": "fsdp"}, ["no effect with actor_strategy=fsdp"]),
        ({"actor_fsdp_param_offload": True}, ["actor_fsdp_param_offload=true has no effect"]),
        ({"actor_fsdp_param_offload": True, "actor_fsdp_config_offload_policy": False}, []),
        ({"algorithm_use_kl_in_reward": True}, ["counts twice"]),
    ],
)
def test_what_has_no_effect_is_told(given, words):
    told = list(notes(params(**given)))
    assert len(told) == len(words)
    assert all(word in note for note, word in zip(told, words, strict=True))


def test_nearest_values():
    assert multiples_near(10, 3, 4) == [8, 12]
    assert multiples_near(1, 3, 4) == [4]
    assert multiples_near(8, 3, 4) == [8]
    assert [divisors_near(12, value) for value in (1, 4, 5, 100)] == [[1], [4], [4, 6], [12]]
    assert (divisor_near(12, 5), divisor_near(12, 1, least=2), divisor_near(1, 5, least=2)) == (6, 2, 0)


def test_the_page_tells_the_table_and_every_refusal():
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text("utf-8")
    lines = [f"| {line['name']} | {line['value']} | {line['how']} |" for line in table(params(), 7473, "")]
    told = re.findall(r"^\| [a-zA-Z -]+ \| \d+ \| .* \|$", page, re.MULTILINE)
    assert len(told) == 8
    assert [line for line in told if line not in lines] == []
    ours = "".join(Path(module.__file__).read_text("utf-8") for module in (plan, declared, images, without_verl))
    parts = (sweeps._verl_problems, verl_memory.rollout_problems, memory_checks.memory_problems)
    ours += "".join(map(inspect.getsource, parts))
    codes = set(re.findall(r"P[A-Z]+-E\d{4}", ours)) - {"PARAM-E0341", "PARAM-E0342"}  # half a bound, no expression
    assert codes == set(re.findall(r"P[A-Z]+-E\d{4}", page))
    named = page[page.index("can compute: ") :].replace("\n", " ").split(". ")
    offered = named[0].removeprefix("can compute: ").replace("and gae, which", "gae, which").split(", ")
    assert set(offered[: len(ESTIMATORS)]) == set(ESTIMATORS)
    assert all(name in named[1] for name in NOT_COMPUTED)


# ---- verl's own checks


@cache
def source(file: str) -> str:
    return (VERL / file).read_text("utf-8")


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse(source(file))


def from_verl(file: str, name: str, **known: Any) -> Any:
    """Compile one function of verl's source and return it; `known` are the names that it uses."""
    [found] = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef) and node.name == name]
    found.decorator_list = []
    module = ast.Module([ast.ImportFrom("__future__", [ast.alias("annotations")], 0), found], [])
    namespace = {"math": math, **known}
    exec(compile(ast.fix_missing_locations(module), file, "exec"), namespace)
    return namespace[name]


class Config(SimpleNamespace):
    """As a configuration of OmegaConf: attributes, and `get`."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def verl_refuses(p: VerlParams) -> str:
    """Return the message with which verl's validate_config refuses; empty if it accepts."""
    actor_file = parsed("workers/config/actor.py")
    [base] = [node for node in actor_file.body if isinstance(node, ast.ClassDef) and node.name == "ActorConfig"]
    [method] = [node for node in base.body if isinstance(node, ast.FunctionDef) and node.name == "validate"]
    namespace: dict[str, Any] = {}
    exec(ast.unparse(method), namespace)
    actor = Config(strategy=p.actor_strategy, use_dynamic_bsz=False, ppo_mini_batch_size=p.actor_ppo_mini_batch_size,
                   ppo_micro_batch_size=None, use_kl_loss=p.actor_use_kl_loss)  # fmt: skip
    actor.validate = lambda *given: namespace["validate"](actor, *given)
    micro = {"log_prob_micro_batch_size": None}
    model = Config(lora_rank=p.actor_model_lora_rank)
    rollout = Config(n=p.rollout_n, name=p.rollout, temperature=p.rollout_temperature,
                     val_kwargs=Config(do_sample=p.rollout_val_temperature > 0), **micro,
                     log_prob_micro_batch_size_per_gpu=p.rollout_log_prob_micro_batch_size_per_gpu)  # fmt: skip
    ref = Config(**micro, log_prob_micro_batch_size_per_gpu=p.ref_log_prob_micro_batch_size_per_gpu)
    config = Config(
        trainer=Config(n_gpus_per_node=p.gpus_per_node, nnodes=p.nodes),
        data=Config(train_batch_size=p.data_train_batch_size),
        actor_rollout_ref=Config(actor=actor, model=model, rollout=rollout, ref=ref),
        algorithm=Config(use_kl_in_reward=p.algorithm_use_kl_in_reward),
    )
    validate = from_verl("utils/config.py", "validate_config", omega_conf_to_dataclass=lambda one: one,
                         _validate_router_replay_config=lambda *given: None)  # fmt: skip
    wanted = from_verl(
        "workers/rollout/vllm_rollout/utils.py", "get_vllm_max_lora_rank", Literal=Literal, get_args=get_args
    )
    from_vllm = SimpleNamespace(get_vllm_max_lora_rank=wanted)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("verl", "verl.workers", "verl.workers.rollout", "verl.workers.rollout.vllm_rollout"):
            patch.setitem(sys.modules, module, SimpleNamespace())
        patch.setitem(sys.modules, "verl.workers.rollout.vllm_rollout.utils", from_vllm)
        try:
            validate(config, use_reference_policy=True, use_critic=False)
        except (AssertionError, ValueError) as refused:
            return str(refused)
    return ""


AT_THE_START = {"PLAN-E0533": "must be >= actor.ppo_mini_batch_size", "PLAN-E0536": "real_train_batch_size",
                "PLAN-E0535": "lora_rank must be less"}  # fmt: skip


@pytest.mark.parametrize("given", [given for given, _ in REFUSED], ids=lambda one: str(one)[:60])
def test_verls_own_validation_refuses_the_same(given, capsys):
    """Of three codes it refuses every case, of all others none: those it stops at later, on the GPUs."""
    p = params(**given)
    expected = [words for problem in size_problems(p) if (words := AT_THE_START.get(problem.code))]
    refused = verl_refuses(p)
    assert bool(refused) == bool(expected)
    assert all(words in refused for words in expected[:1])


@pytest.mark.parametrize("number", range(50))
def test_empty_completions_are_counted_as_verl_does(number):
    draw = random.Random(number)
    p = params(trainer_n_gpus_per_node=draw.randrange(1, 9), rollout_n=draw.randrange(1, 8),
               data_train_batch_size=draw.randrange(50, 600),
               actor_ppo_mini_batch_size=draw.randrange(1, 50))  # fmt: skip
    multiple = from_verl("trainer/ppo/v1/trainer_base.py", "_get_required_batch_multiple")
    config = Config(
        trainer=Config(critic_warmup=0),
        critic=Config(ppo_mini_batch_size=p.actor_ppo_mini_batch_size),
        actor_rollout_ref=Config(rollout=Config(n=p.rollout_n),
                                 actor=Config(ppo_mini_batch_size=p.actor_ppo_mini_batch_size)),
    )  # fmt: skip
    for critic in (False, True):
        of = multiple(SimpleNamespace(config=config, use_critic=critic, global_steps=1), p.gpus_per_node)
        completions = p.data_train_batch_size * p.rollout_n
        assert Step.of(p).filled == completions + -completions % of


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("workers/engine_workers.py", "assert mini_batch_size % self.engine.get_data_parallel_size() == 0"),
        ("workers/engine_workers.py", "assert self.world_size % infer_world_size == 0"),
        ("workers/engine/utils.py", "assert total_data_size % (force_group_size * micro_batch_size_per_gpu) == 0"),
        ("workers/rollout/replica.py", "assert self.world_size % self.gpus_per_replica_node == 0"),
        ("trainer/ppo/v1/trainer_base.py", "drop_last=True"),
        ("trainer/ppo/v1/trainer_base.py",
         "self.steps_per_epoch = len(self.train_dataset) // self.config.data.train_batch_size"),
        ("trainer/ppo/v1/trainer_base.py", "current_epoch = self.global_steps // self.steps_per_epoch"),
        ("trainer/ppo/v1/trainer_base.py", "while current_epoch < self.config.trainer.total_epochs and "
                                           "self.global_steps <= self.total_training_steps:"),
        ("trainer/ppo/v1/trainer_base.py", "if self.config.trainer.critic_warmup <= self.global_steps:"),
        ("trainer/ppo/v1/trainer_base.py", "critic_cfg.engine.max_token_len_per_gpu = "
                                           "critic_cfg.ppo_infer_max_token_len_per_gpu"),
        ("trainer/ppo/v1/trainer_base.py", "ref_in_actor = lora_rank > 0"),
    ],
)  # fmt: skip
def test_verl_checks_and_counts_as_the_plan_assumes(file, line):
    assert line in source(file)


def test_every_engine_and_estimator_is_verls():
    registered = re.findall(r'\("(\w+)", "async"\)', source("workers/rollout/base.py"))
    assert set(registered) == {"vllm", "sglang", "trtllm"}
    named = re.findall(r'^    [A-Z_]+ = "(\w+)"$', source("trainer/ppo/core_algos.py"), re.MULTILINE)
    assert set(named) == {*ESTIMATORS, *NOT_COMPUTED}
    read = source("trainer/ppo/v1/trainer_base.py") + source("trainer/ppo/v1/utils.py")
    needed = ("reward_baselines", "sum_pi_squared", "gdpo_reward_keys")  # of remax, of the two baselines, of gdpo
    assert [name for name in needed if name in read] == []
    assert f", {LARGEST_RANK}]" in source("workers/rollout/vllm_rollout/utils.py")


def test_steps_are_counted_once():
    assert steps_of(params(total_training_steps=100), 5120) == (10, 100)
    assert steps_of(params(total_training_steps=200), 5120) == (10, 150)
    assert steps_of(params(), 100) == (0, 0)


def test_trials_of_a_sweep_have_no_verl_on_a_cluster(monkeypatch):
    with_verl, without = (SimpleNamespace(parameters=params(ENGINE=engine)) for engine in ("sglang", "trl"))
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    (problem,) = sweeps._verl_problems([without, with_verl])
    assert (problem.code, problem.where, problem.expected) == ("PLAN-E0544", "ENGINE", "trl")
    assert list(sweeps._verl_problems([without])) == []
    monkeypatch.setenv("FINETUNE_ROOT", "/here")
    assert list(sweeps._verl_problems([with_verl])) == []
