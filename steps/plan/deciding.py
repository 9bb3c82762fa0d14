"""Read all inputs, check them and decide, without a GPU; collect all problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from steps.adapters.input_adapter import continued
from steps.errors import Problem, StepError, UserError
from steps.kinds.recipe import Recipe
from steps.launch.deepspeed_plan import DeepSpeedPlan, deepspeed_plan
from steps.models.new_tokens import NewTokens, look_for_new_tokens
from steps.params.data import DataSource
from steps.params.evaluation_config import EvaluationOptions
from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import Reading, defaults, read_parameters
from steps.params.wording import in_words, in_words_of
from steps.plan.arithmetic import table
from steps.plan.batch_rule import resolved
from steps.plan.checks import CHECKS, NOTES
from steps.plan.effects import without_effect
from steps.plan.evaluation_gpus import evaluated_on
from steps.plan.evaluation_options import evaluation_options
from steps.plan.fitted import fitted_to_model
from steps.plan.hardware import Hardware, hardware_of, instance_types
from steps.plan.interruptions import Saves, saves_of
from steps.plan.lengths import longest
from steps.plan.memory import MemoryEstimate
from steps.plan.need import Need
from steps.plan.needs import merging, needs_of
from steps.plan.nodes import with_nodes
from steps.plan.recipes import recipe_for
from steps.plan.requests import requested, small_machine_notes, unused_gpu_notes
from steps.plan.rewards import look_at_rewards
from steps.plan.room import Room
from steps.plan.seen import RewardsFound, Seen, runs_here
from steps.plan.sources import (
    DataFound,
    ModelFound,
    function_digest,
    look_at_data,
    look_at_model,
    look_at_reference,
    pinned_source,
    with_reference,
)
from steps.plan.strategy import Choice, choose
from steps.plan.templates import TemplateFound, look_at_template

T = TypeVar("T")


@dataclass(frozen=True)
class Decisions:
    """Everything that was read and decided."""

    reading: Reading
    recipe: Recipe
    model: ModelFound
    new_tokens: NewTokens
    data: dict[str, DataFound]
    source: DataSource
    template_digest: str
    function_digest: str
    options: EvaluationOptions
    hardware: dict[str, Hardware]
    """Request of each task group."""
    needs: dict[str, Need]
    """What each task needs, by its name."""
    choice: Choice
    """How the processes of the training share the model, and the memory that each needs."""
    max_length: int
    saves: Saves
    warnings: list[str]
    idle: dict[str, str]
    """Parameters, set or not, that have no effect, with the reason."""
    reference: ModelFound | None = None
    """Reference model of preference training, if it is not the base model."""
    rewards: RewardsFound | None = None
    """What judges completions; None without rewards."""
    zero: DeepSpeedPlan | None = None
    """DeepSpeed configuration; None without DeepSpeed."""

    @property
    def parameters(self) -> SupervisedParameters:
        """The effective parameters."""
        return training_parameters(self.reading)

    @property
    def memory(self) -> MemoryEstimate:
        """What one process of the training needs."""
        return self.choice.memory

    @property
    def room(self) -> Room:
        """Where it must fit."""
        return self.choice.room


def decide(pipeline: str, arguments: dict[str, Any]) -> Decisions:
    """Run every check that needs no GPU, and decide everything.

    Raises UserError with all problems that the user can fix; else the first refusal or outage.
    """
    reading = read_parameters(pipeline, asked_for(pipeline, arguments))
    with in_words_of(reading.parameters.names_told):
        return _decided(reading)


def _decided(reading: Reading) -> Decisions:
    trouble = Trouble()
    zero = trouble.gather(lambda: deepspeed_plan(training_parameters(reading)))
    reading = _settled(reading, zero, trouble)
    model = trouble.gather(lambda: look_at_model(training_parameters(reading)))
    reading = _continued(reading, model, trouble)
    reading = fitted_to_model(reading, model) if model else reading
    seen = _look(reading, model, zero, trouble)
    for check in CHECKS:
        trouble.add(check(seen))
    trouble.raise_if_any()
    return _chosen(seen)


def _settled(reading: Reading, zero: DeepSpeedPlan | None, trouble: Trouble) -> Reading:
    """Apply the DeepSpeed file and the total batch size to the parameters that follow from them."""
    asked = training_parameters(reading)
    if zero and zero.changes:
        asked = asked.model_copy(update=zero.changes)
    p = trouble.gather(lambda: resolved(asked)) or asked
    if p is reading.parameters:
        return reading
    trouble.add(p.all_conflicts())  # a method may not support the resulting batch size
    return replace(reading, parameters=p)


def _continued(reading: Reading, model: ModelFound | None, trouble: Trouble) -> Reading:
    """Use the shape of the adapter that training continues."""
    asked = training_parameters(reading)
    if not (model and model.adapter and asked.adapter_use == "continue"):
        return reading
    adapter = model.adapter
    p = trouble.gather(lambda: continued(asked, adapter)) or asked
    trouble.add(p.all_conflicts())
    return replace(reading, parameters=p)


def _look(reading: Reading, model: ModelFound | None, zero: DeepSpeedPlan | None, trouble: Trouble) -> Seen:
    """Read everything else that the parameters name."""
    p = training_parameters(reading)
    recipe = recipe_for(p, model.layout.config if model else {})
    data = trouble.gather(lambda: look_at_data(p))
    hardware = trouble.gather(lambda: hardware_of(p))
    source = trouble.gather(lambda: pinned_source(p))
    template = trouble.gather(lambda: look_at_template(p, model))
    function = trouble.gather(lambda: function_digest(p))
    options = trouble.gather(lambda: evaluation_options(p, recipe))
    rewards = trouble.gather(lambda: look_at_rewards(p))
    reference, new_tokens = None, None
    if found := model:
        if most := hardware:
            hardware = trouble.gather(lambda: dict(evaluated_on(p, recipe, found, most)))
        new_tokens = trouble.gather(lambda: look_for_new_tokens(p, recipe, found))
        reference = trouble.gather(lambda: look_at_reference(p, found))
    return Seen(
        reading,
        recipe,
        model,
        reference,
        new_tokens or NewTokens(),
        data or {},
        source,
        template or TemplateFound(),
        function or "",
        options,
        rewards,
        hardware or {},
        zero,
    )


def _chosen(seen: Seen) -> Decisions:
    """Decide the row length, the memory settings and the checkpoints by time from what was read."""
    p, model = seen.parameters, seen.model
    assert model is not None
    assert seen.source is not None
    assert seen.options is not None
    max_length = longest(p, seen.recipe, model)
    choice = choose(seen)
    assert choice is not None
    tasks = needs_of(seen, choice.memory)
    most, tasks = with_nodes(p, seen.hardware, tasks, merging(model) if p.apply_lora else 0)
    notes = [in_words(sentence, p.names_told) for note in NOTES for sentence in note(seen)]
    if not runs_here():
        notes += small_machine_notes(most, tasks, instance_types(p))
        notes += unused_gpu_notes(seen.hardware, p.number_of_gpu_to_use_finetuning)
    return Decisions(
        reading=seen.reading,
        recipe=seen.recipe,
        model=with_reference(model, seen.reference),
        new_tokens=seen.new_tokens,
        data=seen.data,
        source=seen.source,
        template_digest=seen.template.digest,
        function_digest=seen.function_digest,
        options=seen.options.options,
        hardware=requested(most, tasks),
        needs=tasks,
        choice=choice,
        max_length=max_length,
        saves=saves_of(seen, _steps(seen, max_length)),
        warnings=[*seen.reading.warnings, *notes],
        idle=without_effect(seen),
        reference=seen.reference,
        rewards=seen.rewards,
        zero=seen.zero,
    )


def _steps(seen: Seen, max_length: int) -> int | None:
    """Return the number of optimizer steps; None if it is not known yet."""
    rows = seen.data["train"].rows if "train" in seen.data else None
    lines = {line["name"]: line["value"] for line in table(seen.parameters, rows, max_length)}
    steps = lines["optimizer steps"]
    return steps if isinstance(steps, int) else None


def training_parameters(reading: Reading) -> SupervisedParameters:
    """Return the parameters of a training pipeline."""
    assert isinstance(reading.parameters, SupervisedParameters)
    return reading.parameters


def asked_for(pipeline: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out arguments equal to their default, because KFP passes every parameter, requested or not."""
    known = defaults(PARAMETER_MODELS[pipeline]) if pipeline in PARAMETER_MODELS else {}
    return {name: value for name, value in arguments.items() if name not in known or value != known[name]}


class Trouble:
    """Problems of several independent reads; a failure of one does not hide those of the others."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.harder: list[StepError] = []

    def gather(self, look: Callable[[], T]) -> T | None:
        """Call `look`; if it fails, record its problems and return None."""
        try:
            return look()
        except UserError as error:
            self.add(error.problems)
        except StepError as error:
            self.harder.append(error)
        return None

    def add(self, problems: Iterable[Problem]) -> None:
        """Record problems, each once."""
        self.problems += [problem for problem in problems if problem not in self.problems]

    def raise_if_any(self) -> None:
        """Raise UserError with all problems that the user can fix; else the first refusal or outage."""
        if self.problems:
            raise UserError(self.problems)
        if self.harder:
            raise self.harder[0]
