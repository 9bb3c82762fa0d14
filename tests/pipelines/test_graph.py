"""The graph of every pipeline as KFP's interface draws it, and the lists that it shows of artifacts and metrics.

It draws one node for each task, condition and output artifact of a layer; a condition has a layer of its own, and so
has a part of a sweep: a pipeline inside it, a loop. What a part hands out is drawn in its layer and in that around it.
"""

from pathlib import Path

import pytest
import yaml

from pipelines.catalog import published_as
from steps.listed import MOST_METRICS, few_metrics
from steps.params.pipelines import SWEEP

COMPILED = Path(__file__).parents[2] / "compiled"
FILES = sorted(COMPILED.glob("*.yaml"))
WIDEST = 22  # characters; the interface cuts longer names of nodes


def layers_of(file: Path) -> dict[str, dict[str, list[str]]]:
    """Return the labels of each layer by kind of node: tasks, conditions, artifacts, parts, and what parts hand out."""
    spec, _ = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    components = spec["components"]
    layers = {}
    for name, dag in [("root", spec["root"]), *((n, c) for n, c in components.items() if "dag" in c)]:
        nodes: dict[str, list[str]] = {"tasks": [], "conditions": [], "artifacts": [], "parts": [], "handed out": []}
        for task in dag["dag"]["tasks"].values():
            component = components[task["componentRef"]["name"]]
            kind = "conditions" if "triggerPolicy" in task else "parts" if "dag" in component else "tasks"
            nodes[kind].append(task["taskInfo"]["name"])
            nodes["handed out" if "dag" in component else "artifacts"] += (
                component.get("outputDefinitions", {}).get("artifacts", {}))  # fmt: skip
        layers[name] = nodes
    return layers


def labels_of(file: Path, *kinds: str) -> list[str]:
    return [label for layer in layers_of(file).values() for kind in kinds for label in layer[kind]]


def is_sweep(file: Path) -> bool:
    return f"{SWEEP}_pipeline" in file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_graph_has_few_nodes_beside_those_of_the_tasks(file):
    for layer in layers_of(file).values():  # the interface draws one at a time
        assert len(layer["artifacts"]) + len(layer["handed out"]) + len(layer["conditions"]) <= 14
        assert sum(map(len, layer.values())) <= 21
    assert len(labels_of(file, "artifacts")) <= (18 if is_sweep(file) else 14)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_label_of_the_graph_is_short_and_stands_once(file):
    labels = labels_of(file, "tasks", "conditions", "parts", "artifacts")
    spelled = [label.lower().replace("_", " ") for label in labels]
    assert len(set(spelled)) == len(spelled)
    assert max(map(len, labels)) <= WIDEST
    for layer in layers_of(file).values():
        drawn = [label for labels in layer.values() for label in labels]
        assert len(set(drawn)) == len(drawn)
        assert max(map(len, drawn)) <= WIDEST


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tasks_and_conditions_are_named_by_what_they_do(file):
    named = labels_of(file, "tasks", "conditions", "parts")
    assert all(label[0].isupper() and "-" not in label for label in named)
    if is_sweep(file):
        assert named == [
            "Import model", "Plan and check", "Prepare data", "Best trial", "Trials",
            "Merge and evaluate", "Best trial's model", "Write run report", "Register if it passed",
            "If registration is on", "Register model", "Lane", "Train and measure", "One after another",
            "Choose the best trial", "Lanes",
        ]  # fmt: skip
    elif published_as(file.stem.removesuffix("_pipeline").removesuffix("_short")).trains:
        package = ["Write MLflow model"] if file.stem.startswith("grpo_") else []
        assert named == [
            "Evaluate and compare", "Train and merge", "Import model", *package, "Plan and check", "Prepare data",
            "Write run report", "Register if it passed", "If registration is on", "Register model",
        ]  # fmt: skip


def test_every_report_has_a_name_of_its_own():
    reports = [
        label for label in labels_of(COMPILED / "chat_completion_pipeline.yaml", "artifacts") if "report" in label
    ]
    assert sorted(reports) == ["data_report", "plan_report", "run_report", "training_report"]


TEXT = ("loss", "perplexity", "exact_match", "word_f1", "bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf",
        "rouge1", "rouge2", "rougeL", "rougeLsum")  # fmt: skip
LABELS = ("loss", "log_loss", "accuracy", "mcc", "f1_macro", "f1_micro", "precision_macro", "recall_macro", "AUC_macro")


def measured(names: tuple[str, ...], gate: str, base: tuple[str, ...] | None = None) -> dict:
    values = {name: number / 8 for number, name in enumerate(names)}
    was = {name: values[name] + 1 for name in (names if base is None else base)}
    return {"gate": {"metric": gate}, "base": was, "tuned": values}


@pytest.mark.parametrize(("names", "gate"), [(TEXT, name) for name in TEXT] + [(LABELS, name) for name in LABELS])
def test_the_gates_metric_is_the_first_of_few(names, gate):
    made = measured(names, gate)
    shown = few_metrics(made)
    assert list(shown)[:2] == [gate, f"{gate}_base"]
    assert {"exact_match", "accuracy"} & set(names) <= set(shown)
    assert len(shown) <= MOST_METRICS == 10  # a page of the interface
    for name, value in shown.items():
        plain = name.removesuffix("_base")
        assert value == made["tuned" if plain == name else "base"][plain]


def test_a_metric_that_the_base_does_not_have_stands_alone():
    shown = few_metrics(measured(("loss", "rouge1"), "loss", base=("rouge1",)))
    assert list(shown) == ["loss", "rouge1"]
