"""The model card of a registered model, as Markdown."""

from __future__ import annotations

import json
from typing import Any

from steps.adapters.layout import kept_adapter_of
from steps.params.metrics import direction_of
from steps.register_model.candidate import Candidate, Target
from steps.register_model.weights import Weights, masked
from steps.tasks import load_task

BETTER = {True: "more", False: "less", None: "–"}


def write_card(candidate: Candidate) -> str:
    """Return the card. It needs no information from the registry, so it can be logged before the version exists."""
    base = candidate.base
    lineage = masked(candidate.settings.lineage)
    source = lineage.get("model", {})
    came_with = {
        name: f"{lineage[name]['source']['uri']} (digest {lineage[name]['source']['digest']})"
        for name in ("adapter", "reference")
        if name in lineage
    }
    about_base = {
        "base model": source.get("uri", "an unnamed model"),
        "digest of its source": source.get("digest", ""),
        "architecture": base.get("architecture", ""),
        "parameters": f"{base['parameters']:,}" if "parameters" in base else "",
    }
    about_data = {
        f"{split} rows": f"{rows['uri']} (digest {rows['digest']})" for split, rows in lineage.get("data", {}).items()
    }
    digests = {f"digest of {name}": digest for name, digest in candidate.digests.items()}
    about_lineage = {
        "weights": candidate.weights.uri,
        "digest of files": candidate.weights.manifest.digest,
        **digests,
        "pipeline": candidate.settings.pipeline,
        "code": candidate.weights.manifest.lineage.get("code", ""),
    }
    task = load_task(candidate.settings.task)
    example = getattr(task, "EXAMPLE_OF_PAIRS", task.EXAMPLE) if candidate.settings.pairs else task.EXAMPLE
    if candidate.settings.recipe.kind.reads_images:
        example = '{"prompt": "<image>Which?", "images": ["data:image/png;base64,…"]}'
    parts = [
        f"# {candidate.target.name}",
        f"A tuned model that {task.DOES}: {about_base['base model']}, tuned with the pipeline "
        f"{candidate.settings.pipeline}.",
        "## Sources\n\n" + _table(("what", "value"), {**about_base, **came_with, **about_data}.items()),
        "## Evaluation\n\n" + _numbers(candidate.metrics),
        *_rewards(candidate.metrics),
        "## Training\n\n" + _training(candidate.history),
        "## Lineage\n\n" + _table(("what", "value"), about_lineage.items()),
        "## Usage\n\n" + _usage(candidate.target, example, candidate.weights, candidate.copies),
        "## Parameters\n\n" + _table(("parameter", "value"), _parameters(masked(candidate.settings.parameters))),
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(metrics: dict[str, Any]) -> str:
    # A metric may have no value for the base, such as the precision of a class that it never predicts.
    before = {name: f"{value:.4g}" for name, value in metrics["base"].items()}
    rows = [
        (name, before.get(name, "–"), f"{value:.4g}", BETTER[direction_of(name)])
        for name, value in metrics["tuned"].items()
    ]
    table = _table(("metric", "base", "tuned", "better is"), rows)
    count = f"{metrics['rows']:,} held-out rows"
    about = metrics.get("labels", {}).get("base")
    told = f"Evaluated on {count}. {about}" if about else f"Both models were evaluated on the same {count}."
    return f"{told}\n\n{table}\n\n{metrics['gate']['reason']}"


def _rewards(metrics: dict[str, Any]) -> list[str]:
    """Return the section about the rewards that the model learned from, if there were any."""
    rewards = metrics.get("rewards", {}).get("rewards", [])
    if not rewards:
        return []
    rows = [
        (masked(one["name"]), f"{one['weight']:g}", *("–" if one[which] is None else f"{one[which]:.4g}"
                                                      for which in ("base", "tuned")))
        for one in rewards
    ]  # fmt: skip
    return ["## Rewards\n\n" + _table(("reward", "weight", "base", "tuned"), rows)]


def _training(history: dict[str, Any]) -> str:
    if not history:
        return "Not trained by this project."
    counts = history["parameters"]
    lines = {
        "steps of verl" if history.get("trainer") == "verl" else "optimizer steps": f"{history['steps']:,}",
        "time": f"{history['seconds']:.0f} s",
        "trained parameters": f"{counts['trainable']:,} of {counts['total']:,}",
        "MLflow run": history.get("mlflow_run_id") or "",
    }
    return _table(("what", "value"), lines.items())


def _usage(target: Target, question: str, weights: Weights, copied: bool) -> str:
    kept = kept_adapter_of(weights.folder)
    opened = (
        f"The folder is the unchanged base model, with the adapter in `{kept.name}/`: load it with PEFT "
        "(`PeftModel.from_pretrained`), as predict does. Without the adapter it is the base; vLLM cannot serve it."
        if kept
        else "The folder is a plain\nHugging Face model, which transformers and vLLM load directly."
    )
    loaded = (
        f"""mlflow.set_tracking_uri("{masked(target.uri)}")
model = mlflow.pyfunc.load_model("models:/{target.name}@{target.alias}")"""
        if target.uri
        else 'model = mlflow.pyfunc.load_model("the folder with the file MLmodel")'
    )
    return f"""```python
import mlflow

{loaded}
print(model.predict({question}))
```

{_place(weights, copied)}, and every file is compared with its sha256.
If they were moved, pass their new URI: `load_model(…, model_config={{"weights_uri": …}})`. {opened}"""


def _place(weights: Weights, copied: bool) -> str:
    if copied:
        return f"The version has a copy of the weights, which came from `{weights.uri}`; the copy is loaded"
    return f"The weights are not in the registry: they are loaded from `{weights.uri}`"


def _parameters(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(parameters.items())]


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *(row for row in rows if row[-1] != "")]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
