"""Column names of the language tasks, and how strictly their values are checked."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.params.several import COMMAS

USUAL_PREFIX = "auto"  # the task's default prefix for the model


class TaskColumns(Group):
    """Column names: the fields that end in _key."""

    strict: bool = False
    """Refuse texts that contain U+0000; false only warns."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a column that is named twice."""
        used: dict[str, str] = {}
        for parameter, name in self.named_columns().items():
            if name in used:
                yield Problem("PARAM-E0208", parameter, f"{shown(name)}, as in {used[name]}", "another column",
                              f"set {parameter} to the column that holds it")  # fmt: skip
            used.setdefault(name, parameter)

    def named_columns(self) -> dict[str, str]:
        """Return the parameters that name a column, with the column."""
        return {parameter: name for parameter, name in self.model_dump().items() if parameter.endswith("_key") and name}


class ClassificationColumns(TaskColumns):
    """Column names of texts with class labels."""

    sentence1_key: str = Field("sentence1", min_length=1)
    """Column with the text."""

    sentence2_key: str = ""
    """Column with the second text of a pair to classify; empty if there is none."""

    label_key: str = Field("label", min_length=1)
    """Column with the class label: a name, a whole number, or true/false."""

    labels: Annotated[str, COMMAS] = ""
    """All class labels, separated by commas; any other is refused. Empty uses those of the rows."""

    multilabel: bool = False
    """Allow any number of labels per row: a list, or one text with label_separator between them."""

    label_separator: str = Field("|", min_length=1)
    """Separator of the labels of one row; without multilabel, a label that contains it is refused."""


class TokenColumns(TaskColumns):
    """Column names of words and tags."""

    token_key: str = Field("tokens", min_length=1)
    """Column with the list of words."""

    tag_key: str = Field("tags", min_length=1)
    """Column with the list of tags, one per word."""

    tags: Annotated[str, COMMAS] = ""
    """All tags, separated by commas; the rows may then contain their numbers. Empty uses those of the rows."""


class AnswerColumns(TaskColumns):
    """Column names of extractive question answering, and how answers are searched."""

    question_key: str = Field("question", min_length=1)
    """Column with the question."""

    context_key: str = Field("context", min_length=1)
    """Column with the text that contains the answer."""

    answers_key: str = "answers"
    """Column with the answers as {text: […], answer_start: […]}; empty if each has its own column."""

    answer_text_key: str = Field("text", min_length=1)
    """Key of the answer texts inside answers_key, or their column."""

    answer_start_key: str = Field("answer_start", min_length=1)
    """Key or column of the answers' start positions in the context, in characters from 0."""

    allow_no_answer: bool = True
    """Accept questions without an answer, so that the model learns to give none; false refuses them."""

    doc_stride: int = Field(128, ge=0)
    """Overlap in tokens of the windows of a long context; more finds answers near window edges but is slower."""

    n_best_size: int = Field(20, ge=1)
    """Number of best start and end positions that are combined into answers; more is slower and misses fewer."""

    max_answer_length_in_tokens: int = Field(30, ge=1)
    """Maximum length of an answer in tokens."""

    null_score_diff_threshold: float = 0.0
    """Give no answer if its score exceeds the best answer's by more than this; higher answers more often."""

    def named_columns(self) -> dict[str, str]:
        """Leave out the keys inside answers_key, which are not columns."""
        inside = ("answer_text_key", "answer_start_key") if self.answers_key else ()
        return {parameter: name for parameter, name in super().named_columns().items() if parameter not in inside}


class AskedColumns(TaskColumns):
    """Prompt format for models that continue the text with the answer."""

    prompt_prefix: str = USUAL_PREFIX
    """Instruction before each text; auto uses the task's default, empty adds none."""

    text_separator: str = r"\n"
    r"""Separator between text and answer, which marks the end of the text; \n is a line break."""

    @property
    def after_text(self) -> str:
        """The separator with real line breaks; in the value they are two characters, because KFP needs one line."""
        return self.text_separator.replace(r"\n", "\n")


class SummarizationColumns(AskedColumns):
    """Column names of documents and summaries."""

    document_key: str = Field("document", min_length=1)
    """Column with the document."""

    summary_key: str = Field("summary", min_length=1)
    """Column with the summary."""

    summarization_lang: str = Field("en", min_length=1)
    """Language code of the summaries; multilingual models are set to generate it."""


class TranslationColumns(AskedColumns):
    """Column names of texts and translations."""

    source_lang: str = Field("en", min_length=1)
    """Code of the source language; also the name of its column."""

    target_lang: str = Field("de", min_length=1)
    """Code of the target language; also the name of its column."""

    translation_key: str = ""
    """Column with both texts as {en: …, de: …}; empty if each language has its own column."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse equal source and target languages."""
        if self.source_lang == self.target_lang:
            yield Problem("PARAM-E0209", "target_lang", f"{shown(self.target_lang)}, as in source_lang",
                          "two languages", "set target_lang to the other one")  # fmt: skip


class PretrainingColumns(TaskColumns):
    """Column names of plain texts."""

    text_key: str = Field("text", min_length=1)
    """Column with the text."""

    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What one row of a .txt file is: a line, a paragraph (text between blank lines) or the file (document)."""

    mlm_probability: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are masked for a masked language model to predict."""
