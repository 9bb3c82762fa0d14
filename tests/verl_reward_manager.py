"""verl 0.9.1's own reward manager, called with rows and answers in a process of its own.

    python verl_reward_manager.py < {"tokenizer": folder, "jobs": [{"config": overrides, "answers": [texts]}, …]}

The configuration is composed by Hydra, the rows are read by RLHFDataset, the reward function is loaded by
verl.trainer.ppo.reward.load_reward_manager, and each answer goes as tokens in a DataProto through
NaiveRewardManager.run_single: all of verl's package. Ray, which they import without using it here, is replaced by a
name where it is not installed. Prints the results of each job, a list for each, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

LIBRARIES = Path(__file__).parents[1] / ".venv" / "verl"


class _Anything(ModuleType):
    """A module in which every name is there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _name(f"{self.__name__}.{name}")


def _name(called: str) -> Any:
    """A class that decorates, subclasses and answers to any attribute."""

    class Anything(type):
        def __getattr__(cls, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _name(f"{called}.{name}")

        def __call__(cls, *given: Any, **_: Any) -> Any:
            return given[0] if len(given) == 1 and callable(given[0]) else cls

    return Anything(called.rpartition(".")[2], (), {})


class _RayFinder:
    """Finds ray and every module below it as names only."""

    absent = ("ray",)

    def find_spec(self, name: str, *_: Any) -> Any:
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.absent else None

    def create_module(self, spec: Any) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def main() -> None:
    told = json.load(sys.stdin)
    sys.meta_path.append(_RayFinder())  # after the usual ones: a Ray that is installed is used
    from hydra import compose, initialize_config_dir
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(told["tokenizer"])
    with initialize_config_dir(str(LIBRARIES / "verl" / "trainer" / "config"), version_base=None):
        configs = [compose("ppo_trainer", overrides=job["config"]) for job in told["jobs"]]
    results = [results_of(job["answers"], config, tokenizer) for job, config in zip(told["jobs"], configs, strict=True)]
    print(json.dumps(results))


def results_of(answers: list[str], config: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Return what verl's reward manager makes of an answer to each row."""
    import numpy as np
    import torch
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.utils.dataset.rl_dataset import RLHFDataset

    rows = RLHFDataset(config.data.train_files, tokenizer, config.data)
    manager = load_reward_manager(config, tokenizer)
    assert type(manager) is NaiveRewardManager
    assert len(rows) == len(answers)
    results = []
    for number, text in enumerate(answers):
        row = {name: value for name, value in rows[number].items() if not torch.is_tensor(value)}
        prompt, answer = (
            tokenizer(one, return_tensors="pt", add_special_tokens=False).input_ids for one in ("?", text)
        )
        batch = DataProto.from_dict(
            tensors={
                "prompts": prompt,
                "responses": answer,
                "attention_mask": torch.ones(1, prompt.shape[1] + answer.shape[1], dtype=torch.long),
            },
            non_tensors={name: np.fromiter([value], dtype=object, count=1) for name, value in row.items()},
        )
        results.append(manager.loop.run_until_complete(manager.run_single(batch)))
    return results


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    main()
