"""Column names of conversations and of everything that is made of them, and how strictly they are read."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from steps.errors import Problem
from steps.params.group import Group

ROLES = ("system", "user", "assistant", "tool")


def _read_role_map(value: Any) -> Any:
    """Read bot=assistant,human=user as the object that it stands for; raises when a role is none of ours."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): role.strip() for name, _, role in pairs}
    if isinstance(value, dict):
        for name, role in value.items():
            if role not in ROLES:
                raise ValueError(f"roles among {', '.join(ROLES)}, as in bot=assistant,human=user; {name} has {role!r}")
    return value


class MessageRules(Group):
    """How the messages of a conversation are read."""

    role_map: Annotated[dict[str, str], BeforeValidator(_read_role_map)] = Field(default_factory=dict)
    """Other names for roles, as bot=assistant,human=user or as an object; mapped messages count as repaired."""

    merge_turns: bool = False
    """Join successive user turns with an empty line between them instead of refusing them."""

    allow_late_system: bool = False
    """Warn of system messages behind the first place instead of refusing them; the chat template must allow them."""

    strict: bool = False
    """Refuse texts that hold U+0000 or the chat template's control tokens instead of warning of them."""


class ChatColumns(MessageRules):
    """Column names of chat data."""

    messages_key: str = Field("messages", min_length=1)
    """Column with the list of messages; where it is absent a column conversations (ShareGPT) takes its place."""

    tools_key: str = Field("tools", min_length=1)
    """Column with the functions that a conversation may call, as a list of schemas or as JSON; not every row has it."""


class PreferenceColumns(MessageRules):
    """Column names of preference data; where one is absent the same with _messages behind it takes its place."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the question, a text or messages; without it the prompt is what both answers share at the start."""

    chosen_key: str = Field("chosen", min_length=1)
    """Column with the better answer, a text or messages."""

    rejected_key: str = Field("rejected", min_length=1)
    """Column with the worse answer, a text or messages."""


class KtoColumns(MessageRules):
    """Column names of rated answers; where one is absent the same with _messages behind it takes its place."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the question, a text or messages."""

    completion_key: str = Field("completion", min_length=1)
    """Column with the answer, a text or messages."""

    label_key: str = Field("label", min_length=1)
    """Column that says whether the answer is good: true or false, or 1 or 0."""


class GrpoColumns(MessageRules):
    """Column names of questions whose answers are rewarded."""

    dataset_prompt_column: str = Field("problem", min_length=1)
    """Column with the question, a text or messages; where it is absent a column prompt takes its place."""

    dataset_ground_truth_column: str = Field("solution", min_length=1)
    """Column with the right answer, handed to the reward functions as ground_truth; a file may do without it."""


class VerlColumns(MessageRules):
    """Column names of verl data, or of a plain file of questions and answers that becomes verl data."""

    data_source_key: str = Field("data_source", min_length=1)
    """Column that chooses verl's reward function."""

    prompt_key: str = Field("prompt", min_length=1)
    """Column with the messages of the question; a plain text becomes one user message."""

    ability_key: str = Field("ability", min_length=1)
    """Column with the kind of question, such as math; not every row has it."""

    reward_model_key: str = Field("reward_model", min_length=1)
    """Column with the object {style, ground_truth}."""

    extra_info_key: str = Field("extra_info", min_length=1)
    """Column with an object of further values for the reward function; not every row has it."""

    question_key: str = ""
    """Column with the question of a plain file; takes the place of prompt_key."""

    answer_key: str = ""
    """Column with the right answer of a plain file; takes the place of reward_model_key."""

    data_source: str = ""
    """Data source of every row, when the file has no column for it."""

    custom_reward_function_path: str = ""
    """Python file with your own reward function; with it any data_source is good."""

    def conflicts(self) -> Iterator[Problem]:
        """A plain file needs all three: question, answer and data source."""
        if bool(self.question_key) != bool(self.answer_key):
            absent, given = ("answer_key", "question_key") if self.question_key else ("question_key", "answer_key")
            yield Problem("PARAM-E0221", absent, "nothing", f"a column beside {given}", f"set {absent} too")
