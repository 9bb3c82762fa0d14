"""A stand-in for `python -m verl.trainer.main_ppo` (verl 0.9.1), which trains on GPUs with Ray and vLLM only.

`installed(folder)` writes a package `verl` whose main_ppo runs this file; the environment that it returns puts it
before verl's own package, from which all else comes: its configuration, composed by Hydra as verl does, its rewards.
What it does as verl 0.9.1 (read from its source): reads the parquet files, loads the custom reward function from its
file and calls it in threads with reward_kwargs, logs JSON lines by the logger `file` and prints a line by `console`,
writes checkpoints as a DTensor part for each GPU with PEFT's names under LoRA, then latest_checkpointed_iteration.txt,
resumes from the step in that file, deletes checkpoints beyond max_actor_ckpt_to_keep, and dies of SIGTERM without
saving. What it does not: generate (answers are made from the ground truths) and learn (weights move by a fixed amount).

VERL_STAND_IN="what:step" makes it fail: see FAILURES. Heavy libraries are loaded when the first checkpoint needs them.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

LIBRARIES = Path(__file__).parents[1] / ".venv" / "verl"
ASKED = "VERL_STAND_IN"
MAIN = "import sys\nsys.path.insert(0, {tests!r})\nfrom verl_stand_in import main\nmain()\n"
INIT = "__path__.append({library!r})\n"
FAILURES = {
    "oom": "ray.exceptions.RayTaskError(OutOfMemoryError): ray::WorkerDict.actor_update()\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
    "host": "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
    "actor": "(TaskRunner pid=12) ray.exceptions.ActorDiedError: The actor died unexpectedly.",
    "bug": "Traceback (most recent call last):\nTypeError: unsupported operand",
}  # also: nan, infinite (weights), kill, torn (killed while it saves), wait (to be stopped), hang (does not when asked)


def installed(folder: Path) -> dict[str, str]:
    """Write the package below `folder`; return the variables of a process that shall find it before verl's own."""
    package = folder / "stand_in" / "verl"
    (package / "trainer").mkdir(parents=True, exist_ok=True)
    real = LIBRARIES / "verl"
    (package / "__init__.py").write_text(INIT.format(library=str(real)), "utf-8")
    (package / "trainer" / "__init__.py").write_text(INIT.format(library=str(real / "trainer")), "utf-8")
    (package / "trainer" / "main_ppo.py").write_text(MAIN.format(tests=str(Path(__file__).parent)), "utf-8")
    root = Path(__file__).parents[1]
    return {"PYTHONPATH": os.pathsep.join(map(str, (folder / "stand_in", root, LIBRARIES)))}


def main() -> None:
    import hydra

    config = str(LIBRARIES / "verl" / "trainer" / "config")
    hydra.main(config_path=config, config_name="ppo_trainer", version_base=None)(lambda read: Trainer(read).fit())()


class Trainer:
    def __init__(self, config):
        import pyarrow.parquet as pq

        self.config = config
        self.folder = Path(config.trainer.default_local_dir)
        self.gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
        self.rows = pq.read_table(config.data.train_files).to_pylist()
        print(f"dataset len: {len(self.rows)}")
        assert all(type(row["extra_info"]["index"]) is int for row in self.rows)
        assert pq.read_table(config.data.val_files).num_rows, "Val dataloader is empty!"
        self._open_images()
        batches = len(self.rows) // config.data.train_batch_size
        assert batches >= 1, "Train dataloader is empty!"
        self.steps = config.trainer.total_training_steps or batches * config.trainer.total_epochs
        what, _, step = os.environ.get(ASKED, "").partition(":")
        self.fault = (what, int(step or 0))
        self.score = self._reward_function()
        assert {"console", "file"} == set(config.trainer.logger)
        variables = self._of_cluster() if config.trainer.nnodes > 1 else os.environ
        self.log = open(variables["VERL_FILE_LOGGER_PATH"], "wb", buffering=0)  # noqa: SIM115
        self.kept: list[Path] = []
        self.weights = None
        self.step = 0

    def _open_images(self):
        """As RLHFDataset._build_messages: as many images as places for them, in the texts of a row with images."""
        from io import BytesIO

        key = self.config.data.image_key
        for row in self.rows:
            images = row.get(key) or []
            if images:
                from PIL import Image

                places = sum(message["content"].count("<image>") for message in row["prompt"])
                assert places == len(images), f"image_offset {places} != len(images) {len(images)}"
                for image in images:
                    Image.open(BytesIO(image["bytes"])).convert("RGB")
                assert (self.model / "preprocessor_config.json").exists(), "processor is needed"

    def _of_cluster(self):
        """Look at the cluster's GPUs (verl.single_controller.ray.base: _check_resource_available).

        Ray may run the trainer on any node, so that of the variables only those of the runtime environment are there.
        """
        from ray_stand_in import gpus_of_cluster

        there = gpus_of_cluster()
        assert there >= self.gpus, f"Total available GPUs {there} is less than total desired GPUs {self.gpus}"
        return self.config.ray_kwargs.ray_init.runtime_env.env_vars

    def _reward_function(self):
        """As verl.trainer.ppo.reward.get_custom_reward_fn and load_reward_manager."""
        asked = self.config.reward.custom_reward_function
        if not asked.path:
            from verl.utils.reward_score import default_compute_score

            return default_compute_score
        import importlib.util

        spec = importlib.util.spec_from_file_location(f"custom_module_{hash(os.path.abspath(asked.path))}", asked.path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function, more = getattr(module, asked.name), dict(asked.get("reward_kwargs", {}))
        return lambda **given: function(**{**given, **more})

    def fit(self):
        self._resume()
        while self.step < self.steps:
            self.step += 1
            self._fail_if_asked()
            rewards = self._rewards()
            if self.step % self.config.trainer.save_freq == 0 or self.step == self.steps:
                self._save()
            self._log(rewards)

    def _resume(self):
        mode, file = self.config.trainer.resume_mode, self.folder / "latest_checkpointed_iteration.txt"
        if mode == "disable" or not file.exists():
            print("Training from scratch")
            return
        assert mode == "auto"
        self.step = int(file.read_bytes().decode())
        import torch

        actor = self.folder / f"global_step_{self.step}" / "actor"
        parts = [torch.load(actor / f"model_world_size_{self.gpus}_rank_{rank}.pt", weights_only=False)
                 for rank in range(self.gpus)]  # fmt: skip
        for kind in ("optim", "extra_state"):
            torch.load(actor / f"{kind}_world_size_{self.gpus}_rank_0.pt", weights_only=False)
        torch.load(actor.parent / "data.pt", weights_only=False)
        self.weights = {name: torch.cat([part[name].to_local() for part in parts]) for name in parts[0]}
        self.updated = self.step
        print(f"Resuming from {actor.parent}")

    def _rewards(self):
        """Score an answer to each prompt of the batch: right for rows with an even index."""
        from concurrent.futures import ThreadPoolExecutor

        size = self.config.data.train_batch_size
        first = (self.step - 1) * size % (len(self.rows) // size * size)

        def scored(row):
            truth = row["reward_model"]["ground_truth"]
            text = truth["target"][0] if isinstance(truth, dict) else truth
            answer = f"#### {text}" if row["extra_info"]["index"] % 2 == 0 else "I do not know."
            info = {**row["extra_info"], "num_turns": 2, "rollout_reward_scores": {}}
            made = self.score(data_source=row["data_source"], solution_str=answer, ground_truth=truth, extra_info=info)
            return made["score"] if isinstance(made, dict) else made

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(scored, self.rows[first : first + size]))

    def _log(self, rewards):
        import orjson

        broken = self.fault[0] == "nan" and self.step >= self.fault[1]
        data = {
            "actor/loss": float("nan") if broken else 1 / self.step,
            "actor/pg_loss": 0.5 / self.step,
            "actor/lr": self.config.actor_rollout_ref.actor.optim.lr,
            "actor/grad_norm": 1.0,
            "critic/score/mean": sum(rewards) / len(rewards),
            "critic/score/max": max(rewards),
            "response_length/mean": 5.0,
            "perf/total_num_tokens": 100,
            "training/global_step": self.step,
            "training/epoch": 0,
        }
        if self.config.trainer.test_freq > 0 and self.step % self.config.trainer.test_freq == 0:
            data["val-core/openai/gsm8k/reward/mean@1"] = 1 - 1 / self.step
        self.log.write(orjson.dumps({"step": self.step, "data": data}) + b"\n")
        print(f"step:{self.step} - " + " - ".join(f"{name}:{value}" for name, value in data.items()), flush=True)

    def _fail_if_asked(self):
        what, step = self.fault
        if step != self.step:
            return
        if what in FAILURES:
            print(FAILURES[what], flush=True)
            sys.exit(1)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what in ("wait", "hang"):
            if what == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("waiting", flush=True)
            time.sleep(600)

    def _save(self):
        import torch
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard
        from torch.testing._internal.distributed.fake_pg import FakeStore

        self._learn()
        if self.fault[0] == "infinite" and self.step >= self.fault[1]:
            self.weights[sorted(self.weights)[0]].view(-1)[-1] = float("nan")
        actor = self.folder / f"global_step_{self.step}" / "actor"
        actor.mkdir(parents=True, exist_ok=True)
        for rank in range(self.gpus):
            dist.init_process_group("fake", rank=rank, world_size=self.gpus, store=FakeStore())
            mesh = init_device_mesh("cpu", (self.gpus,), mesh_dim_names=("fsdp",))
            part = {}
            for name, whole in self.weights.items():
                local = ([*whole.chunk(self.gpus)] + [whole[:0]] * self.gpus)[rank].clone()
                part[name] = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape,
                                                stride=whole.stride())  # fmt: skip
            end = f"_world_size_{self.gpus}_rank_{rank}.pt"
            torch.save(part, actor / f"model{end}")
            torch.save({"state": {}, "param_groups": []}, actor / f"optim{end}")
            dist.destroy_process_group()
            if self.fault == ("torn", self.step):
                os.truncate(actor / f"model{end}", 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save({"lr_scheduler": {}, "rng": {"cpu": torch.get_rng_state()}}, actor / f"extra_state{end}")
        (actor / "huggingface").mkdir(exist_ok=True)
        (actor / "huggingface" / "config.json").write_bytes((self.model / "config.json").read_bytes())
        (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": self.gpus}))
        if self.lora.lora_rank:
            meta = {"r": self.lora.lora_rank, "lora_alpha": int(self.lora.lora_alpha), "task_type": "CAUSAL_LM"}
            (actor / "lora_train_meta.json").write_text(json.dumps(meta))
        torch.save({"step": self.step}, actor.parent / "data.pt")
        (self.folder / "latest_checkpointed_iteration.txt").write_text(str(self.step))
        most = self.config.trainer.max_actor_ckpt_to_keep
        self.kept.append(actor)
        if most and len(self.kept) > most:
            import shutil

            shutil.rmtree(self.kept.pop(0))

    @property
    def model(self) -> Path:
        return Path(self.config.actor_rollout_ref.model.path)

    @property
    def lora(self):
        return self.config.actor_rollout_ref.model

    def _learn(self):
        """Move the weights by lr for each step since the last checkpoint, as a sum in any order."""
        import torch

        if self.weights is None:
            self.weights, self.updated = self._base(), 0
        steps, self.updated = self.step - self.updated, self.step
        for name, tensor in self.weights.items():
            if self.lora.lora_rank == 0 or "lora_B" in name:
                tensor += steps * self.config.actor_rollout_ref.actor.optim.lr * torch.ones_like(tensor)

    def _loaded(self, name):
        """The name of a stored tensor in the loaded model, which differs for Qwen2.5-VL (transformers 5)."""
        if json.loads((self.model / "config.json").read_bytes())["model_type"] != "qwen2_5_vl":
            return name
        body = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        return f"model.{name}" if name.startswith("visual.") else body

    def _base(self):
        import torch
        from safetensors.torch import load_file

        files = sorted(self.model.glob("*.safetensors"))
        base = {self._loaded(name): tensor.float() for file in files for name, tensor in load_file(file).items()}
        if not self.lora.lora_rank:
            return base
        made, rank = {}, self.lora.lora_rank
        for name, tensor in base.items():
            module = name.removesuffix(".weight")
            adapted = tensor.ndim == 2 and not any(one in name for one in ("embed", "lm_head", "visual"))
            made[f"base_model.model.{module}{'.base_layer' * adapted}.weight"] = tensor
            if adapted:
                generator = torch.Generator().manual_seed(len(made))
                made[f"base_model.model.{module}.lora_A.default.weight"] = torch.randn(
                    rank, tensor.shape[1], generator=generator
                )
                made[f"base_model.model.{module}.lora_B.default.weight"] = torch.zeros(tensor.shape[0], rank)
        return made
