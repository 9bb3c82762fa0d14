"""The record of every model kind and method of learning is complete; the names in it exist and can be called."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from steps.kinds import load
from steps.kinds.method import Method
from steps.kinds.methods import METHODS, PREFERENCE_METHODS
from steps.kinds.model_kind import ModelKind
from steps.kinds.models import MODEL_KINDS
from steps.kinds.recipe import recipe, reports
from steps.params.metrics import KNOWN
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.preference import PreferenceMethod
from steps.tasks import TASKS, load_task

STEPS = Path(__file__).parents[2] / "steps"
PARAMETERS = {name for model in PARAMETER_MODELS.values() for name in model.model_fields}
RECIPES = [recipe(kind, method.name) for method in METHODS.values() for kind in method.kinds]
# What a task's module must have; the others are for some tasks only.
TASK_NAMES = (
    "Columns", "KINDS", "DOES", "EXAMPLE", "CONVERSATIONS", "UNFIT", "SCHEMA", "columns_of", "check_row", "canonical",
    "training_row", "question",
)  # fmt: skip


def parameters_of(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("record", [ModelKind, Method])
def test_no_slot_of_a_record_has_a_default_that_a_new_kind_could_forget(record):
    defaults = (dataclasses.MISSING, dataclasses.MISSING)
    assert all((slot.default, slot.default_factory) == defaults for slot in dataclasses.fields(record))


@pytest.mark.parametrize("folder", ["models", "methods", "adapters"])
def test_every_record_is_listed(folder):
    from steps.kinds.adapters import ADAPTER_KINDS

    listed = {"models": MODEL_KINDS, "methods": METHODS, "adapters": ADAPTER_KINDS}[folder]
    files = {file.stem for file in (STEPS / "kinds" / folder).glob("*.py") if "\nKIND = " in file.read_text("utf-8")
             or "\nMETHOD = " in file.read_text("utf-8")}  # fmt: skip
    assert files == set(listed)
    assert all(record.name == name for name, record in listed.items())


@pytest.mark.parametrize("one", RECIPES, ids=lambda one: f"{one.kind.name}-{one.method.name}")
def test_whatever_a_recipe_names_can_be_called_as_the_steps_call_it(one):
    writer = load(one.writer)
    assert parameters_of(writer.prepare) == ["settings", "folder"]
    assert parameters_of(writer.write) == ["draft", "preparation", "checked"]
    assert parameters_of(load(one.trainer)) == ["run"]
    assert parameters_of(load(one.evaluator))[:4] == ["settings", "base", "tuned", "data"]
    assert parameters_of(load(one.kind.signature)) == ["settings", "folder", "chat"]
    if one.evaluator == "steps.evaluate.generated:compare":
        assert parameters_of(load(one.kind.engine)) == ["folder", "held_out", "settings"]
    assert one.told


@pytest.mark.parametrize("kind", MODEL_KINDS.values(), ids=lambda kind: kind.name)
def test_what_a_kind_says_of_other_places_is_there(kind):
    import transformers
    from peft import TaskType

    assert hasattr(transformers, kind.auto_class)
    assert kind.peft_task is None or kind.peft_task in TaskType.__members__
    assert not kind.served or "class Model" in (STEPS / "register_model" / kind.served).read_text("utf-8")
    assert {*kind.length_parameters, *kind.unfit} <= PARAMETERS
    assert all(reason for reason in kind.unfit.values())


def test_one_kind_is_the_usual_one_and_the_others_know_their_models():
    assert MODEL_KINDS["causal_lm"].made_for({"model_type": "llama"})
    claimed = {
        model_type: [name for name, kind in MODEL_KINDS.items() if name != "causal_lm" and kind.made_for(config)]
        for model_type, config in {
            "llama": {"model_type": "llama"},
            "bert": {"model_type": "bert"},
            "bert that writes": {"model_type": "bert", "is_decoder": True},
            "t5": {"model_type": "t5"},
            "unheard of": {"model_type": "unheard of", "is_encoder_decoder": True},
        }.items()
    }
    assert claimed == {"llama": [], "bert": ["masked_lm"], "bert that writes": [], "t5": ["seq2seq_lm"],
                       "unheard of": ["seq2seq_lm"]}  # fmt: skip


@pytest.mark.parametrize("method", [METHODS[name] for name in PREFERENCE_METHODS], ids=lambda method: method.name)
def test_a_method_reads_parameters_that_there_are(method):
    read = method.reads.union(*(loss.reads for loss in method.losses.values()))
    assert read <= PreferenceMethod.model_fields.keys()
    assert set(method.unfit) <= PARAMETERS
    assert set(method.kinds) <= set(MODEL_KINDS)
    assert method.losses


def test_reports_show_what_evaluators_write():
    assert reports().keys() == {"labels", "tags", "answers", "preferences", "rewards"}
    for name in reports().values():
        assert parameters_of(load(name))[1:] == ["predictions"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_every_name(task):
    module = load_task(task)
    assert [name for name in TASK_NAMES if not hasattr(module, name)] == []
    assert set(module.KINDS) <= set(MODEL_KINDS)
    assert set(module.UNFIT) <= PARAMETERS
    assert module.DOES
    assert module.EXAMPLE


@pytest.mark.parametrize("pipeline", [name for name, model in PARAMETER_MODELS.items() if hasattr(model, "task")])
def test_what_a_pipeline_can_be_judged_by_has_a_direction(pipeline):
    from steps.params.reading import choices_of

    fields = PARAMETER_MODELS[pipeline].model_fields
    for name in ("gate_metric", "metric_for_best_model"):
        if name in fields:  # verl's result is its last checkpoint
            assert set(choices_of(fields[name])) <= KNOWN


def test_records_load_no_library():
    code = (
        "import sys; before = set(sys.modules); import steps.kinds.recipe, steps.kinds.adapters\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=STEPS.parent)
    assert done.stdout.strip() == "['steps']"


@pytest.mark.parametrize("kind", [kind for kind in MODEL_KINDS.values() if kind.peft_task], ids=lambda kind: kind.name)
def test_an_adapter_is_saved_for_the_task_of_the_class_that_loads_its_model(kind):
    from peft.mapping_func import MODEL_TYPE_TO_PEFT_MODEL_MAPPING

    wrapped = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[kind.peft_task].__name__
    # PEFT has no class for models that read images; that of causal models hands on what it does not know.
    loads = "ForCausalLM" if kind.reads_images else kind.auto_class.removeprefix("AutoModel")
    assert wrapped.removeprefix("PeftModel") == loads
