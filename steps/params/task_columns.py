"""Column names of the language tasks, and how strictly their values are read."""

from collections.abc import Iterator

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group

USUAL_PREFIX = "auto"  # the prefix that the task has for the model


class TaskColumns(Group):
    """Columns by name: fields that end in _key."""

    strict: bool = False
    """Refuse texts that hold U+0000 instead of warning of them."""

    def conflicts(self) -> Iterator[Problem]:
        """A column holds one thing."""
        used: dict[str, str] = {}
        for parameter, name in self.named_columns().items():
            if name in used:
                yield Problem("PARAM-E0208", parameter, f"{shown(name)}, as in {used[name]}", "a column of its own",
                              f"set {parameter} to the column that holds it")  # fmt: skip
            used.setdefault(name, parameter)

    def named_columns(self) -> dict[str, str]:
        """Give the parameters that name a column, with its name."""
        return {parameter: name for parameter, name in self.model_dump().items() if parameter.endswith("_key") and name}


class ClassificationColumns(TaskColumns):
    """Column names of texts with a class."""

    sentence1_key: str = Field("sentence1", min_length=1)
    """Column with the text."""

    sentence2_key: str = ""
    """Column with a second text that is judged together with the first; empty when there is none."""

    label_key: str = Field("label", min_length=1)
    """Column with the class: a name, a whole number, or true/false."""

    labels: str = ""
    """The classes that there are, separated by commas; any other is refused. Empty takes those of the rows."""

    multilabel: bool = False
    """A row may have any number of classes: a list, or one text with label_separator between them."""

    label_separator: str = Field("|", min_length=1)
    """What stands between the classes of one row; a text that holds it is refused unless multilabel is set."""


class TokenColumns(TaskColumns):
    """Column names of words with a tag each."""

    token_key: str = Field("tokens", min_length=1)
    """Column with the list of words."""

    tag_key: str = Field("tags", min_length=1)
    """Column with the list of tags, one for each word."""

    tags: str = ""
    """The tags that there are, separated by commas; the data may then hold their numbers. Empty takes what is there."""


class AnswerColumns(TaskColumns):
    """Column names of questions whose answers stand in a text, and how answers are found."""

    question_key: str = Field("question", min_length=1)
    """Column with the question."""

    context_key: str = Field("context", min_length=1)
    """Column with the text that holds the answer."""

    answers_key: str = "answers"
    """Column with the answers as {text: […], answer_start: […]}; empty when both are columns of their own."""

    answer_text_key: str = Field("text", min_length=1)
    """Name of the answers' texts: inside answers_key, or a column."""

    answer_start_key: str = Field("answer_start", min_length=1)
    """Name of the answers' places in the context, in characters from 0: inside answers_key, or a column."""

    allow_no_answer: bool = True
    """Take questions without an answer, from which the model learns to give none; false refuses them."""

    doc_stride: int = Field(128, ge=0)
    """Tokens that two pieces of a long context share; more finds answers near a cut and takes longer."""

    n_best_size: int = Field(20, ge=1)
    """Starts and ends that are tried against each other for an answer; more is slower and misses less."""

    max_answer_length_in_tokens: int = Field(30, ge=1)
    """Longest answer that is given."""

    null_score_diff_threshold: float = 0.0
    """By how much the score of having no answer must exceed that of the best span to win; higher answers more often."""

    def named_columns(self) -> dict[str, str]:
        """Leave out the names inside answers_key, which are no columns."""
        inside = ("answer_text_key", "answer_start_key") if self.answers_key else ()
        return {parameter: name for parameter, name in super().named_columns().items() if parameter not in inside}


class AskedColumns(TaskColumns):
    """How a text is put to a model that goes on from it with the answer."""

    prompt_prefix: str = USUAL_PREFIX
    """Put before each text, so that the model knows what is asked; auto takes the task's own, empty puts nothing."""

    text_separator: str = r"\n"
    r"""Put between each text and its answer, so that the model knows where the text ends; \n is a new line."""

    @property
    def after_text(self) -> str:
        """The separator with its new lines, which the value keeps as two characters: KFP puts it into one line."""
        return self.text_separator.replace(r"\n", "\n")


class SummarizationColumns(AskedColumns):
    """Column names of documents with their summaries."""

    document_key: str = Field("document", min_length=1)
    """Column with the document."""

    summary_key: str = Field("summary", min_length=1)
    """Column with the summary."""

    summarization_lang: str = Field("en", min_length=1)
    """Language of the summaries, as its code; models of many languages are told to write it."""


class TranslationColumns(AskedColumns):
    """Column names of texts with their translations."""

    source_lang: str = Field("en", min_length=1)
    """Language that is translated from, as its code; also the name of its column."""

    target_lang: str = Field("de", min_length=1)
    """Language that is translated to, as its code; also the name of its column."""

    translation_key: str = ""
    """Column with both texts as {en: …, de: …}; empty when each language is a column of its own."""

    def conflicts(self) -> Iterator[Problem]:
        """A language is not translated to itself."""
        if self.source_lang == self.target_lang:
            yield Problem("PARAM-E0209", "target_lang", f"{shown(self.target_lang)}, as in source_lang",
                          "two languages", "set target_lang to the other one")  # fmt: skip


class PretrainingColumns(TaskColumns):
    """Column names of plain texts."""

    text_key: str = Field("text", min_length=1)
    """Column with the text."""

    mlm_probability: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are hidden from a masked model, which learns to put them back."""
