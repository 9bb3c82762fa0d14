"""Texts, or pairs of texts, and their classes."""

from collections.abc import Iterator
from typing import ClassVar

from steps.errors import Problem
from steps.params.metrics import OF_LABEL_SETS, OF_ONE_LABEL, LabelMetrics
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import ClassificationColumns


class TextClassificationParameters(ClassificationColumns, LabelMetrics, SupervisedParameters):
    """Tune a model to give texts, or pairs of texts, their class."""

    task: ClassVar[str] = "text_classification"
    confusion_chart: ClassVar[bool] = True

    def conflicts(self) -> Iterator[Problem]:
        """One label and several are measured by different numbers."""
        missing = OF_ONE_LABEL if self.multilabel else OF_LABEL_SETS
        for name in ("metric_for_best_model", "gate_metric"):
            if (metric := getattr(self, name)) in missing:
                yield Problem("PARAM-E0210", name, f"{metric} with multilabel={str(self.multilabel).lower()}",
                              f"a metric of rows with {'any number of labels' if self.multilabel else 'one label'}",
                              f"set {name} to f1_macro, or change multilabel")  # fmt: skip
