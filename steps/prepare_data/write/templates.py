"""Load the tokenizer with its chat template, and find the template that marks the tokens to learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.models.chat_templates import DEFAULT, named, single, template_file, undecided
from steps.models.template_syntax import syntax_error
from steps.models.template_trial import endless
from steps.params.data import TEMPLATE_TOKENS
from steps.prepare_data.write.tokenising import NO_LOSS, RefusedRows, tokenise

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
KEEP = "keep"
NAMED = Path(__file__).parent / "chat_templates"
ENDED_BY_EOS = ("mistral-with-system", "poro")


def load_tokenizer(folder: Path, chat_template: str) -> Any:
    """Load the tokenizer of a folder with one chat template, or none.

    `chat_template` is "keep", a name of ours or of the model's, or a path or URI of a Jinja file. With "keep", several
    templates without a default remain as they are. Raises UserError if the template does not exist, is not valid, or
    uses tokens that the tokenizer does not have.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    own = named(tokenizer.chat_template)
    if chat_template in TEMPLATE_TOKENS:
        _refuse_unknown_tokens(tokenizer, chat_template)
        tokenizer.chat_template = (NAMED / f"{chat_template}.jinja").read_text(encoding="utf-8")
    elif chat_template in own:
        tokenizer.chat_template = own[chat_template]
    elif chat_template != KEEP:
        tokenizer.chat_template = read_template(chat_template)
    elif DEFAULT in own:
        tokenizer.chat_template = single(own)
    _refuse_endless(tokenizer.chat_template, chat_template)
    return tokenizer


def _refuse_endless(template: Any, chosen: str) -> None:
    """Raise UserError for a model's template that does not end; one that cannot be read is refused when it is used."""
    if isinstance(template, str) and not syntax_error(template) and (wrong := endless(template)):
        raise _no_template(f"{chosen}: {wrong}", "a Jinja template that ends")


def read_template(uri: str) -> str:
    """Read a Jinja file and check its syntax. Raises UserError, and as `steps.sources.storage.read_bytes`."""
    text = template_file(uri)
    if wrong := syntax_error(text) or endless(text):
        raise _no_template(f"{uri}:{wrong}", "a Jinja template")
    return text


def has_generation_marks(template: str | None) -> bool:
    """Return whether a template encloses the assistant's turns in {% generation %}."""
    return bool(template) and GENERATION.search(str(template)) is not None


def training_template(tokenizer: Any) -> str | None:
    """Find a template that marks the assistant's turns; None if the tokenizer's own template does.

    Templates of known models without marks are replaced by TRL's marked copies, as in its trainer.
    Raises UserError if there is no such copy.
    """
    if has_generation_marks(tokenizer.chat_template):
        return None
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        raise UserError(
            Problem("DATA-E0802", "train_on_completions_only", "a chat template without {% generation %}",
                    "a template that marks the assistant's turns with {% generation %} … {% endgeneration %}",
                    "pass a marked copy as chat_template, or set train_on_completions_only to false")
        ) from None  # fmt: skip


def stop_is_learned(tokenizer: Any, template: str | None) -> bool:
    """Return whether the token that ends an assistant's turn is learned, that is inside the generation marks.

    If it is outside, the model does not learn to stop, while the loss looks normal. As in TRL 1.16
    (`is_chat_template_stop_token_trained`), the last learned token of a turn in the middle of a conversation, ignoring
    blanks, must be one of the tokenizer's added tokens.
    """
    turns = [{"role": role, "content": "dummy"} for role in ("user", "assistant", "user")]
    try:
        tokens = tokenise(tokenizer, [{"messages": turns}], completions_only=True, template=template)
    except RefusedRows:
        return False
    learned = [token for token in tokens.labels.tolist() if token != NO_LOSS]
    last = next((token for token in reversed(learned) if tokenizer.decode([token]).strip()), None)
    return last in tokenizer.get_added_vocab().values()


def end_of_turn(tokenizer: Any) -> str:
    """Return the last token that ends an assistant's turn; empty if there is none or if it is the end token.

    Empty if the template writes the tokenizer's own end token, which then ends a turn. Otherwise the tokens after an
    answer in the middle of a conversation are compared with those after the last answer.
    """
    template = tokenizer.chat_template
    if not template or "eos_token" in template:
        return ""
    question, answer = {"role": "user", "content": "Q3qu"}, {"role": "assistant", "content": "A5an"}
    runs = []
    for turns in ([question, answer], [question, answer, question, answer]):
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # a template may raise any exception
            return ""
        runs.append(_leading_tokens(tokenizer, text.partition("A5an")[2].lstrip()))  # none: it writes no answers
    closing = [one for one, other in zip(*runs, strict=False) if one == other]
    return closing[-1] if closing else ""


def _leading_tokens(tokenizer: Any, text: str) -> list[str]:
    """Return the consecutive added tokens at the start of a text."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    found: list[str] = []
    while token := max((token for token in added if text.startswith(token)), key=len, default=""):
        found.append(token)
        text = text.removeprefix(token)
    return found


def check_chat_template(tokenizer: Any) -> None:
    """Raise UserError if a tokenizer has no chat template, or several of which none is the default."""
    own = tokenizer.chat_template
    if problem := undecided(own if isinstance(own, dict) else {DEFAULT: own or ""}):
        raise UserError(problem)


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the special tokens that the chat template writes."""
    text = str(tokenizer.chat_template)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(token for token in special if token in text or token == tokenizer.eos_token))


def _refuse_unknown_tokens(tokenizer: Any, name: str) -> None:
    """Raise UserError if the tokenizer lacks a control token: it would be split into several tokens."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in TEMPLATE_TOKENS[name] if token not in vocabulary]
    if name in ENDED_BY_EOS and not tokenizer.eos_token:
        missing.append("eos_token")
    if missing:
        raise UserError(
            Problem("DATA-E0811", "chat_template", f"{name}, but the tokenizer has no {', '.join(missing)}",
                    "a template whose tokens are in the tokenizer",
                    "set chat_template to keep, or to one of this model's family; a training can add them with "
                    "add_template_tokens=true, which needs tokenizer.json")
        )  # fmt: skip


def _no_template(found: str, expected: str) -> UserError:
    return UserError(Problem("DATA-E0806", "chat_template", found, expected, "correct the file"))
