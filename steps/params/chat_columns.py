"""Column names of conversations, preferences and rewarded prompts, and how strictly messages are checked."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from steps.errors import Problem
from steps.params.group import Group, Renamed, default_in

ROLES = ("system", "user", "assistant", "tool")
USUAL_SYSTEM_PROMPT = "auto"  # the plan replaces it by what the rewards ask for
RowForm = Literal[
    "auto", "off", "alpaca", "dolly", "query_response", "prompt_completion", "question_answer", "problem_solution",
    "input_output", "human_assistant", "sharegpt", "openai", "hh",
]  # fmt: skip


def _read_role_map(value: Any) -> Any:
    """Convert bot=assistant,human=user to a dict; raises ValueError for an unknown role."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): role.strip() for name, _, role in pairs}
    if isinstance(value, dict):
        for name, role in value.items():
            if role not in ROLES:
                raise ValueError(f"roles among {', '.join(ROLES)}, as in bot=assistant,human=user; {name} has {role!r}")
    return value


class MessageRules(Group):
    """How the messages of a conversation are checked."""

    role_map: Annotated[dict[str, str], BeforeValidator(_read_role_map)] = Field(default_factory=dict)
    """Other names of roles, as bot=assistant,human=user or as an object; mapped messages count as repaired."""

    merge_turns: bool = False
    """Join consecutive user turns with an empty line between them; false refuses them."""

    allow_late_system: bool = False
    """Warn about system messages after the first message; false refuses them. The chat template must allow them."""

    strict: bool = False
    """Refuse texts that contain U+0000 or control tokens of the chat template; false only warns."""


class RowForms(MessageRules):
    """Which forms of rows are read besides the declared columns."""

    row_form: Annotated[RowForm, Renamed(values={"false": "off", "none": "off", "true": "auto"})] = "auto"
    """Form of rows without the declared columns: auto recognises it by its columns, off allows none, a name sets it."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a forced form beside columns that are named explicitly."""
        if self.row_form in ("auto", "off"):
            return
        for name in ("messages_key", "prompt_key", "completion_key"):
            if name in type(self).model_fields and getattr(self, name) != default_in(type(self), name):
                yield Problem("PARAM-E0222", "row_form", f"{self.row_form} beside {name}={getattr(self, name)}",
                              "one of them", f"leave {name} out, or set row_form=off")  # fmt: skip


class ChatColumns(RowForms):
    """Column names of chat data."""

    messages_key: str = Field("messages", min_length=1)
    """Column with the list of messages; if it is missing, the column conversations (ShareGPT) is used."""

    tools_key: str = Field("tools", min_length=1)
    """Optional column with the functions a conversation may call, as a list of schemas or as JSON."""


class PreferenceColumns(RowForms):
    """Column names of preference data; if one is missing, the column with _messages appended is used."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the prompt, a text or messages; if it is missing, the prompt is the common start of both answers."""

    chosen_key: str = Field("chosen", min_length=1)
    """Column with the better answer, a text or messages."""

    rejected_key: str = Field("rejected", min_length=1)
    """Column with the worse answer, a text or messages."""


class KtoColumns(RowForms):
    """Column names of rated answers; if one is missing, the column with _messages appended is used."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the question, a text or messages."""

    completion_key: str = Field("completion", min_length=1)
    """Column with the answer, a text or messages."""

    label_key: str = Field("label", min_length=1)
    """Column with the rating: true or 1 for a good answer, false or 0 for a bad one."""


class GrpoColumns(MessageRules):
    """Column names of prompts for training with rewards."""

    dataset_prompt_column: str = Field("problem", min_length=1)
    """Column with the question, a text or messages; if it is missing, the column prompt is used."""

    dataset_ground_truth_column: str = Field("solution", min_length=1)
    """Optional column with the correct answer, for the rewards; if it is missing, the column ground_truth is used."""

    system_prompt: str = USUAL_SYSTEM_PROMPT
    """Instruction before prompts without one; auto asks for think and answer tags if a reward does; empty: none."""


class ImageColumn(Group):
    """The column with images."""

    data_image_key: str = "images"
    """Column with the images of a prompt; rows without it are text. Empty: no row may have images."""


class VerlColumns(MessageRules, ImageColumn):
    """Column names of verl data, or of a plain file of questions and answers to convert to verl data."""

    data_source_key: str = Field("data_source", min_length=1)
    """Column that selects verl's reward function."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the messages of the question; a plain text becomes one user message."""

    ability_key: str = Field("ability", min_length=1)
    """Optional column with the kind of question, such as math."""

    reward_model_key: str = Field("reward_model", min_length=1)
    """Column with the object {style, ground_truth}."""

    extra_info_key: str = Field("extra_info", min_length=1)
    """Optional column with an object of further values for the reward function."""

    question_key: str = ""
    """Column with the question of a plain file; used instead of prompt_key."""

    answer_key: str = ""
    """Column with the correct answer of a plain file; used instead of reward_model_key."""

    data_source: str = ""
    """Data source of every row, if the file has no column for it."""

    custom_reward_function_path: str = ""
    """Python file whose function compute_score is the reward; with it, any data_source is accepted."""

    def conflicts(self) -> Iterator[Problem]:
        """Require question and answer columns together."""
        if bool(self.question_key) != bool(self.answer_key):
            absent, given = ("answer_key", "question_key") if self.question_key else ("question_key", "answer_key")
            yield Problem("PARAM-E0221", absent, "nothing", "a column", f"set {absent} too", why=f"{given} is set")


class PromptColumns(MessageRules):
    """Column names of prompts and conversations to answer."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the prompt, a text or messages; if it is missing, text, question or instruction is used."""

    messages_key: str = Field("messages", min_length=1)
    """Column with a conversation, used before prompt_key's default; also conversations (ShareGPT)."""

    tools_key: str = Field("tools", min_length=1)
    """Optional column with the functions a conversation may call, as a list of schemas or as JSON."""

    reference_key: str = ""
    """Column with the right answer; empty: the last message of a conversation, if that is the assistant's."""

    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What one prompt of a .txt file is: a line, a paragraph (text between blank lines) or the file (document)."""
