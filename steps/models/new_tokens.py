"""Which tokens the model gets that it does not know, and what pads its batches: read from small files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from steps.errors import Problem, UserError, shown
from steps.kinds.adapters import ADAPTER_KINDS
from steps.kinds.recipe import Recipe
from steps.models.layout import ModelLayout, vocabulary_rows
from steps.models.tokenizer_files import TOKENIZER, TokenizerFiles
from steps.params.data import TEMPLATE_TOKENS
from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.vocabulary import REPURPOSED
from steps.sources.model_files import ModelFiles

TOKENS_SHOWN = 8


class Model(Protocol):
    """What is asked of a model that was looked at."""

    @property
    def layout(self) -> ModelLayout: ...

    @property
    def tokenizer(self) -> tuple[ModelFiles, dict[str, str]]:
        """Where the tokenizer's files are, and which: name → path."""
        ...


@dataclass(frozen=True)
class NewTokens:
    """What import_model does to the vocabulary."""

    tokens: tuple[str, ...] = ()
    """Tokens that the tokenizer gets; a few may have been there as mere letters."""
    known: int = 0
    """Numbers that the tokenizer has before."""
    total: int = 0
    """And after."""
    rows: int = 0
    """Rows of the embedding before."""
    padding: str = ""
    """Token that becomes the padding token; empty leaves the tokenizer as it is."""
    warnings: tuple[str, ...] = ()

    @property
    def told(self) -> list[dict[str, Any]]:
        """Rows of {name, value, how} for the plan's table."""
        lines = []
        if self.tokens:
            names = ", ".join(self.tokens[:TOKENS_SHOWN]) + (" …" if len(self.tokens) > TOKENS_SHOWN else "")
            room = "" if self.total > self.rows else f"; the embedding has {self.rows:,} rows already"
            lines.append(
                {"name": "vocabulary", "value": f"{self.known:,} → {self.total:,}", "how": f"new: {names}{room}"}
            )
        if self.padding:
            how = "missing_pad_token_strategy; the tokenizer names no padding token"
            lines.append({"name": "padding token", "value": self.padding, "how": how})
        return lines


def reads_tokenizer(p: SupervisedParameters) -> bool:
    """Return whether new tokens are looked for, which reads the tokenizer's files."""
    return (
        bool(p.special_tokens or p.chat_template in TEMPLATE_TOKENS) or p.missing_pad_token_strategy != "eos-repurpose"
    )


def look_for_new_tokens(p: SupervisedParameters, recipe: Recipe, model: Model) -> NewTokens:
    """Decide which tokens are added. Raises UserError when some are needed that this model or method cannot get."""
    asked, strategy = p.special_tokens, p.missing_pad_token_strategy
    template = list(TEMPLATE_TOKENS.get(p.chat_template, ()))
    if not reads_tokenizer(p):
        return NewTokens()
    source, names = model.tokenizer
    try:
        files = TokenizerFiles.read(names, lambda name: source.read(names[name]))
        padding = _padding(files, strategy)
        if TOKENIZER not in names:
            _refuse_without_fast(asked)
            return NewTokens(padding=padding)  # prepare_data looks whether it knows the template's tokens
        lacks = files.missing(template)
        if lacks and not p.add_template_tokens:
            raise UserError(_not_allowed(p, lacks))
        tokens = tuple(dict.fromkeys([*files.divided(asked), *lacks]))
        if not tokens:
            return NewTokens(padding=padding)
        before, after = files.numbers(), files.with_tokens(tokens).numbers()
    except ValueError as error:
        raise UserError(
            Problem("PLAN-E0342", "additional_special_tokens" if asked else "chat_template", str(error)[:80],
                    "tokenizer files that can be read", "save the tokenizer again: tokenizer.save_pretrained(folder)")
        ) from None  # fmt: skip
    found = NewTokens(
        tokens, max(before.values()) + 1, max(after.values()) + 1, vocabulary_rows(model.layout.config), padding
    )
    if problems := list(_problems(p, recipe, model, found)):
        raise UserError(problems)
    return NewTokens(**{**vars(found), "warnings": tuple(_warnings(p, found))})


def _padding(files: TokenizerFiles, strategy: str) -> str:
    """Give the token that shall pad; empty when the tokenizer has one, or when the end token does it anyway."""
    if files.named("pad_token") or strategy == "eos-repurpose":
        return ""
    role = REPURPOSED[strategy]
    if token := files.named(role):
        return token
    raise UserError(
        Problem("PLAN-E0345", "missing_pad_token_strategy", f"{strategy}, but the tokenizer has no {role}",
                "a token that the tokenizer has", "set missing_pad_token_strategy=eos-repurpose")
    )  # fmt: skip


def _refuse_without_fast(asked: list[str]) -> None:
    if asked:
        raise UserError(
            Problem("PLAN-E0341", "additional_special_tokens", f"a tokenizer without {TOKENIZER}",
                    "a fast tokenizer, whose tokens can be added to",
                    "save it as one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")
        )  # fmt: skip


def _not_allowed(p: SupervisedParameters, lacks: list[str]) -> Problem:
    return Problem("DATA-E0811", "chat_template", f"{p.chat_template}, but the tokenizer has no {', '.join(lacks)}",
                   "a template of tokens that the model knows, or add_template_tokens=true",
                   "set add_template_tokens=true, or chat_template to keep or to a template of this model's family"
                   )  # fmt: skip


def _problems(p: SupervisedParameters, recipe: Recipe, model: Model, new: NewTokens) -> Iterator[Problem]:
    where = "additional_special_tokens" if p.special_tokens else "chat_template"
    found = f"new tokens ({shown(', '.join(new.tokens))})"
    if not recipe.takes_new_tokens:
        return  # refused by name already: the parameters mean nothing there
    if not new.rows:
        yield Problem("PLAN-E0344", where, f"{found} for a model whose config.json has no vocab_size",
                      "a model with one embedding over its vocabulary", "name another model")  # fmt: skip
    yield from _adapter_problems(p, where, found)


def _adapter_problems(p: SupervisedParameters, where: str, found: str) -> Iterator[Problem]:
    """Refuse what has rows for the old tokens only, and adapters that train no single rows."""
    if p.apply_lora and not ADAPTER_KINDS[p.peft_type].trains_new_rows:
        yield Problem("PLAN-E0346", where, f"{found} with peft_type={p.peft_type}", "an adapter that can train single "
                      "rows", "set peft_type=lora, or apply_lora=false")  # fmt: skip
    if p.bits:
        yield Problem("PLAN-E0343", where, f"{found} with load_in_{p.bits}bit=true", "a base in its own type",
                      f"leave load_in_{p.bits}bit out, or tune the tokens in a run before")  # fmt: skip
    if p.adapter_use == "continue":
        yield Problem("PLAN-E0347", where, f"{found} with adapter_use=continue", "the tokens that the adapter knows",
                      "set adapter_use=merge")  # fmt: skip
    if getattr(p, "reference_model_path", ""):
        yield Problem("PLAN-E0348", where, f"{found} with reference_model_path", "tokens that the reference knows",
                      "leave reference_model_path out, or tune with chat_completion first and take the result for both"
                      )  # fmt: skip


def _warnings(p: SupervisedParameters, new: NewTokens) -> Iterator[str]:
    if isinstance(p, PreferenceMethod) and p.learning.asks_reference:
        yield (
            f"the reference that {p.method} measures by has never seen {', '.join(new.tokens[:TOKENS_SHOWN])}: tune "
            "with chat_completion first, and go on from that model"
        )
