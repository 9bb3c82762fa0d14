"""The mixin before TRL's trainers of rewards: completions, rewards, evaluation, and what is saved and resumed."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather

from steps.errors import Problem, UserError
from steps.finetune.rewarded.completions_table import CompletionsTable
from steps.finetune.rewarded.generation_batch import GenerationBatch
from steps.finetune.rewarded.positions import count_from_first_token
from steps.finetune.rewarded.prompts import PromptOrder, Row, row_of
from steps.finetune.rewarded.scored import Evaluated, agreed
from steps.finetune.rewarded.seeds import seeds_of
from steps.finetune.rewarded.signal import Signal
from steps.finetune.rewarded.whole_model import whole_model
from steps.finetune.rollouts import write_completions
from steps.finetune.run import Run
from steps.finetune.watching import Alive
from steps.generation.tokens import Limits
from steps.launch.group import current
from steps.params.reward_training import RewardTraining
from steps.rewards.scoring import Reward, Rewards, Scores, checked
from steps.rewards.texts import text_of
from steps.tasks.rules.messages import as_one_text

log = logging.getLogger("finetune")

STATE = "rewarded.json"  # in a checkpoint
EVALUATION = "evaluation"  # in place of the number of a generation


class Judged(NamedTuple):
    """The batch of this process that was written last."""

    completions: list[Any]
    tokens: list[list[int]]
    scores: Scores


class Rewarding:
    """Mixin that precedes GRPOTrainer or RLOOTrainer (TRL 1.16) among the base classes.

    `columns` are the names that rewards get beside prompts and completions.
    """

    takes_logprobs: bool
    """Whether TRL's trainer takes log-probabilities from what writes completions."""
    # Of TRL's trainers.
    args: Any
    state: Any
    model: Any
    accelerator: Any
    ref_model: Any
    train_dataset: Any
    eval_dataset: Any
    callback_handler: Any
    vllm_generation: Any
    use_vllm: bool
    num_generations: Any
    num_generations_eval: Any
    num_iterations: int
    eos_token_ids: list[int]
    _step: int
    _tokenizer: Any
    _metrics: Any
    _log_metric: Any

    tokens_seen = 0
    """Tokens that this process has learned from, prompts included, each time anew."""

    def __init__(self, run: Run, rewards: Rewards, columns: list[str], **given: Any):
        self._asked: RewardTraining
        self._asked, _ = run.settings.asked_rewards
        self._seed = run.settings.training.seed
        self._rewards, self._columns = rewards, columns
        self._shorts = [reward.short for reward in rewards.rewards]
        self._table = CompletionsTable(run.checkpoints, self._shorts)
        self._signal = Signal()
        self._limits = Limits()  # what did not fit into a GPU's memory is not tried again
        self._generations = 0
        self._batch: GenerationBatch | None = None
        self._rows: list[Row] = []
        self._places: list[int] = []
        self._finished: list[bool] = []
        self._judged: Judged
        self._latest: list[dict[str, Any]] = []
        self._offset = 0
        self._evaluated = Evaluated()
        super().__init__(reward_funcs=[_named(reward) for reward in rewards.rewards], **given)  # type: ignore[call-arg]
        for model in filter(None, (self.model, self.ref_model)):
            count_from_first_token(self.accelerator.unwrap_model(model))  # the reference may be in an engine
        if self.use_vllm:
            self.vllm_generation.begin(self)

    # Rows.

    def _get_train_sampler(self, dataset: Any = None) -> PromptOrder:
        arguments = self.args
        return PromptOrder(
            len(dataset if dataset is not None else self.train_dataset),
            self.num_generations,
            arguments.generation_batch_size // self.num_generations,
            self.num_iterations * arguments.steps_per_generation,
            self._asked.shuffle_dataset,
            arguments.seed,
        )

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return one forward pass: of completions that are written now, or of those that are still learned from."""
        arguments = self.args
        if not self.model.training:
            return self._generate_and_score_completions(inputs)
        if self._step % self._every == 0 or self._batch is None:
            self._generations += 1
            made = self._generate_and_score_completions(inputs)
            padding = self._tokenizer.pad_token_id
            self._batch = GenerationBatch.of(made, padding, self._seed, self._generations)
        size = arguments.per_device_train_batch_size
        device = self.accelerator.device
        part = self._batch.part(self._step % arguments.steps_per_generation, size, device)
        self.tokens_seen += int(part["prompt_mask"].sum() + part["completion_mask"].sum())
        return part

    @property
    def _every(self) -> int:
        """Forward passes from one generation to the next."""
        return int(self.args.steps_per_generation * self.num_iterations)

    # Completions and their rewards.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        training = self.model.training
        group, count = current(), len(inputs)
        first = group.rank * count + (0 if training else self._offset)
        self._offset += 0 if training else count * group.count
        self._rows, self._places = [row_of(row) for row in inputs], list(range(first, first + count))
        prompts = [{"prompt": row.prompt} for row in self._rows]
        made = super()._generate_and_score_completions(prompts)  # type: ignore[misc]
        self._keep(made, training)
        return made

    def _tokenize_prompts(self, _prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the tokens of prepare_data, which have the maximum length."""
        return [row.prompt_ids for row in self._rows], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **more: Any) -> Any:
        """Write one completion to each prompt, with vLLM if TRL was told to use it."""
        self._alive()
        if self.use_vllm:
            self.vllm_generation.seeds = self._seeds()
            made = super()._generate_single_turn(prompt_ids, *rest, **more)  # type: ignore[misc]
            ids = made[0] if self.takes_logprobs else made
            self._finished = [one[-1] in self.eos_token_ids for one in ids]
        else:
            ids = self._written(prompt_ids)
            made = (ids, None) if self.takes_logprobs else ids
        self._alive()
        return made

    def _written(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """Write completions with the project's own engine."""
        ends: list[int] = self.eos_token_ids
        with whole_model(self) as model:
            told = write_completions(model, self._tokenizer, prompt_ids, self._asked, self._seeds(), ends, self._limits)
        self._finished = [finished for _, finished in told]
        return [list(tokens) for tokens, _ in told]

    def _seeds(self) -> list[int]:
        """Return the seeds of this batch's completions."""
        generation = self._generations if self.model.training else EVALUATION
        return seeds_of(self._seed, generation, self._places)

    def _calculate_rewards(self, _inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> torch.Tensor:
        """Return the rewards of all processes, NaN where one does not apply: completions × rewards."""
        columns = {name: [row.columns.get(name) for row in self._rows] for name in self._columns}
        scores = agreed(lambda: self._rewards.score(prompts, completions, columns, completion_ids, self.state))
        self._alive()
        self._judged = Judged(completions, completion_ids, scores)
        for name, value in scores.metrics.items():
            self._log_metric(name, value)
        by_reward = [scores.rewards[reward.name] for reward in self._rewards.rewards]
        rows = [[math.nan if one is None else one for one in row] for row in zip(*by_reward, strict=True)]
        device = self.accelerator.device
        told: torch.Tensor = gather(torch.tensor(rows, dtype=torch.float32, device=device))
        return told

    def _keep(self, made: dict[str, Any], training: bool) -> None:
        """Note the batch's completions for the table, the evaluation and the log."""
        judged, scores = self._judged, self._judged.scores
        step = self.state.global_step + training  # the first one that learns from them
        rows = []
        for number, (row, place) in enumerate(zip(self._rows, self._places, strict=True)):
            rows.append({
                "step": step,
                "split": "train" if training else "validation",
                "place": place,
                "prompt": as_one_text(row.prompt),
                "completion": text_of(judged.completions[number]),
                "tokens": len(judged.tokens[number]),
                "finished": self._finished[number],
                "reward": scores.totals[number],
                **{f"rewards/{one.short}": scores.rewards[one.name][number] for one in self._rewards.rewards},
                **{name: values[number] for name, values in scores.extra.items()},
                "advantage": float(made["advantages"][number]),
            })  # fmt: skip
        if not training:  # the last batches of several processes are filled with copies
            rows = [row for row in rows if row["place"] < len(self.eval_dataset) * self.num_generations_eval]
            self._evaluated.rows += rows
        everything = [row for part in current().all_of(rows) for row in part]
        if training:
            totals = [math.nan if row["reward"] is None else row["reward"] for row in everything]
            self._signal.note(step, totals, self.num_generations)
            self._latest = everything
        if current().is_first and everything:
            self._table.add(everything)

    def _alive(self) -> None:
        """Note that the training goes on: writing and judging many completions may take as long as many steps."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, Alive):
                callback.on_event()

    # Evaluation and log.

    def evaluation_loop(self, *given: Any, **named: Any) -> Any:
        self._offset, self._evaluated = 0, Evaluated()
        return super().evaluation_loop(*given, **named)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        training = self.model.training
        metrics: dict[str, list[float]] = self._metrics["train" if training else "eval"]
        trains, evaluates = training and "loss" in logs, "eval_loss" in logs
        if trains:
            metrics["num_tokens"] = [sum(current().all_of(self.tokens_seen))]
        elif evaluates:
            metrics.pop("num_tokens", None)
            group = self.num_generations_eval
            metrics.update({k: [v] for k, v in self._evaluated.together(self._shorts, group).items()})
        super().log(logs, start_time)  # type: ignore[misc]
        if current().is_first and (trains or evaluates):
            self._print(self._latest if trains else self._evaluated.rows)

    def _print(self, rows: list[dict[str, Any]]) -> None:
        """Print some completions, the first one to each prompt before the second ones."""
        group: int = self.num_generations
        spread = sorted(rows, key=lambda row: (row["place"] % group, row["place"]))
        for row in spread[: self._asked.num_completions_to_print]:
            log.info("%s", _line_of(row, self._shorts))

    # Checkpoints and the result.

    def train(self, resume_from_checkpoint: Any = None, *given: Any, **named: Any) -> Any:
        checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if current().is_first:
            self._table.begin(checkpoint)
        if checkpoint:
            self._resume(checkpoint)
        try:
            made = super().train(resume_from_checkpoint, *given, **named)  # type: ignore[misc]
            if self.eval_dataset is not None and self.args.eval_strategy == "no":
                self.evaluate()  # type: ignore[attr-defined]  # once, as do_eval asks
        finally:
            if self.use_vllm:
                self.vllm_generation.close()
        if current().is_first:
            self._signal.tell()
        return made

    def _resume(self, checkpoint: Path) -> None:
        """Go on within the generation from whose completions the step behind the checkpoint would learn."""
        file = checkpoint / STATE
        if not file.is_file():
            raise UserError(
                Problem("TRAIN-E0221", str(checkpoint), f"no {STATE}", "a checkpoint of a training with rewards",
                        "name another one, or set resume_from_checkpoint=false to start at step 0")
            )  # fmt: skip
        told = json.loads(file.read_bytes())
        self._generations, self._signal = told["generations"], Signal(**told["signal"])
        learned = told["sequences"]
        if learned:
            self._batch = GenerationBatch.load(checkpoint)
            arguments = self.args
            self._step = learned // (arguments.per_device_train_batch_size * current().count)

    def _save_checkpoint(self, *given: Any) -> None:
        super()._save_checkpoint(*given)  # type: ignore[misc]
        if not current().is_first:
            return
        arguments = self.args
        folder = Path(arguments.output_dir, f"checkpoint-{self.state.global_step}")
        learned = self._step % self._every * arguments.per_device_train_batch_size * current().count
        told = {"generations": self._generations, "sequences": learned, "signal": asdict(self._signal)}
        (folder / STATE).write_text(json.dumps(told), encoding="utf-8")
        if learned and self._batch:
            self._batch.save(folder)
        self._table.save(folder)

    def write_beside(self, folder: Path) -> None:
        """Write the completions beside the tuned model; only the first process calls this."""
        self._table.save(folder)
        shutil.rmtree(self._table.folder)


def _named(reward: Reward) -> Any:
    """Return a function with the reward's short name, by which TRL names its metrics."""

    def call(completions: list[Any], **values: Any) -> list[float | None]:
        return checked(reward.name, reward.call(completions=completions, **values), completions)

    call.__name__ = call.__qualname__ = reward.short
    return call


def _line_of(row: dict[str, Any], rewards: list[str]) -> str:
    told = ", ".join(f"{name} {_number(row[f'rewards/{name}'])}" for name in rewards)
    return (
        f"{row['split']} completion of step {row['step']}  reward {_number(row['reward'])} ({told})\n"
        f"  prompt: {_indented(row['prompt'])}\n  completion: {_indented(row['completion'])}"
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
