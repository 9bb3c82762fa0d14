"""Queries and passages, and whether a passage is relevant."""

from typing import ClassVar

from pydantic import Field

from steps.params.metrics import RankingMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.task_columns import TaskColumns


class RerankingColumns(TaskColumns):
    """Column names of queries with passages."""

    query_key: str = Field("query", min_length=1)
    """Column with the query; test rows of one query are ranked together."""

    passage_key: str = Field("passage", min_length=1)
    """Column with the passage."""

    relevant_key: str = Field("relevant", min_length=1)
    """Column that says whether the passage is relevant to the query: true or false, or 1 or 0."""


class RerankingParameters(RerankingColumns, RankingMetrics, SupervisedParameters):
    """Tune a model to score how relevant a passage is to a query."""

    task: ClassVar[str] = "reranking"
    short_inputs: ClassVar[tuple[str, ...]] = (*COMMON_INPUTS, "query_key", "passage_key", "relevant_key", "precision")
    confusion_chart: ClassVar[bool] = True
