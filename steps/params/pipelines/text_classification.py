"""Classification of texts or pairs of texts."""

from collections.abc import Iterator
from typing import ClassVar

from steps.errors import Problem
from steps.params.metrics import OF_LABEL_SETS, OF_ONE_LABEL, LabelMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.task_columns import ClassificationColumns


class TextClassificationParameters(ClassificationColumns, LabelMetrics, SupervisedParameters):
    """Tune a model to classify texts or pairs of texts."""

    task: ClassVar[str] = "text_classification"
    short_inputs: ClassVar[tuple[str, ...]] = (
        *COMMON_INPUTS,
        "sentence1_key",
        "sentence2_key",
        "label_key",
        "multilabel",
    )
    confusion_chart: ClassVar[bool] = True

    def conflicts(self) -> Iterator[Problem]:
        """Refuse metrics that do not exist for one label per row, or for several."""
        missing = OF_ONE_LABEL if self.multilabel else OF_LABEL_SETS
        for name in ("metric_for_best_model", "gate_metric"):
            if (metric := getattr(self, name)) in missing:
                yield Problem("PARAM-E0210", name, f"{metric} with multilabel={str(self.multilabel).lower()}",
                              f"a metric for rows with {'any number of labels' if self.multilabel else 'one label'}",
                              f"set {name} to f1_macro, or change multilabel")  # fmt: skip
