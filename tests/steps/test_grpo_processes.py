"""Several processes learn from rewards as one process does: the same completions, losses and weights."""

import json

import pytest
from conftest import build_model
from grids import long_but
from rewarded_rows import LETTERS, letters, prompt_rows, settings_with, write_prompts
from test_grpo_training import table
from trained_kinds import Kind
from trained_together import WAYS, differences, history, train_all
from training_inputs import as_imported, train

from steps.errors import UserError
from steps.params.distributed import Processes
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

# Batches of evaluation that do not divide the 20 validation completions, of which the last process gets copies.
CASES = {
    "full": ({"evaluation_strategy": "steps", "eval_steps": 2}, {"num_iterations": 2}, False),
    "passes": ({"gradient_accumulation_steps": 2}, {"steps_per_generation": 4, "loss_type": "grpo"}, False),
    "lora": ({}, {"num_iterations": 2}, True),
    "rloo": ({}, {"method": "rloo", "num_iterations": 2, "beta": 0.1}, False),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Kind:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("inputs")
    build_model(folder / "source")
    model = as_imported(folder / "source", folder / "model")
    rows = prompt_rows(29)
    data = write_prompts(folder / "data", AutoTokenizer.from_pretrained(model), train=rows[:24], validation=rows[24:])
    return Kind(model, data, None)


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> str:
    return letters(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="module")
def alone(inputs, reward, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_ROOT", str(out / "root"))
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in CASES:
            train(asked(name, reward), inputs.model, inputs.data, out / name)
    return out


def asked(name: str, reward: str, processes: Processes | None = None, **given) -> FinetuneSettings:
    training, rewarded, lora = CASES[name]
    count = processes.count if processes else 1
    sizes = {"per_device_train_batch_size": 8 // count, "per_device_eval_batch_size": 8 // count, "max_steps": 4}
    return settings_with(reward, {**sizes, **training}, rewarded, lora=LoraParams(apply_lora=lora),
                         processes=processes or Processes(), **given)  # fmt: skip


@pytest.mark.parametrize("way", long_but(["ddp", "zero3"], WAYS))
def test_two_processes_learn_as_one_does(inputs, reward, alone, loaded, tmp_path, way):
    given = {**WAYS[way]}
    processes = Processes(per_node=2, **given.pop("processes", {}))
    jobs = {name: (inputs, asked(name, reward, processes, **given)) for name in CASES}
    train_all(jobs, tmp_path, loaded)
    for name in CASES:
        assert differences(tmp_path / name, alone / name, 1e-5, 1e-3) == [], name
        ours, theirs = ({(row["step"], row["split"], row["place"]): row for row in table(out / name)}
                        for out in (tmp_path, alone))  # fmt: skip
        assert ours.keys() == theirs.keys()
        for place, row in ours.items():
            for what in ("prompt", "completion", "tokens", "finished", "reward", "letters/first"):
                assert row[what] == theirs[place][what], (name, place)
            assert row["advantage"] == pytest.approx(theirs[place]["advantage"], abs=1e-4)
        mine, plain = history(tmp_path / name), history(alone / name)
        assert mine["tokens"] == plain["tokens"]
        for what in ("reward", "kl", "grad_norm"):
            one, other = ([point.get(what, -1) for point in told["points"]] for told in (mine, plain))
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4), (name, what)
        rewards = [[one["reward"] for one in told["evaluations"]] for told in (mine, plain)]
        assert rewards[0] == pytest.approx(rewards[1], abs=1e-12)


def test_a_reward_that_fails_in_one_process_ends_all_with_its_error(inputs, tmp_path, forked):
    text = LETTERS.replace(
        "    texts = ",
        """    import os
    if kwargs["trainer_state"].global_step == 1 and os.environ["RANK"] == "1":
        raise ValueError("no such animal")
    texts = """,
        1,
    )
    settings = asked("full", letters(tmp_path, text), Processes(per_node=2), checkpoints=CheckpointParams(save_steps=1))
    settings = settings.model_copy(update={"rewarded": settings.rewarded.model_copy(update={"num_iterations": 1})})
    with pytest.raises(UserError, match=r"(?s)REWARD-E0207.*rewards.py:\d+ in letters.*no such animal"):
        train(settings, inputs.model, inputs.data, tmp_path / "ours")
    [kept] = (tmp_path / "root/checkpoints").glob("*/*/checkpoint-1")
    assert json.loads((kept / "rewarded.json").read_text())["generations"] == 1
    letters(tmp_path, LETTERS)
    train(settings, inputs.model, inputs.data, tmp_path / "ours")
    assert history(tmp_path / "ours")["resumed_from"] == 1
