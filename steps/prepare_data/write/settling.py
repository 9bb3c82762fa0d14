"""Settle the chat template of a data set: one text for its rows, for later prompts, and for the tuned model."""

from __future__ import annotations

from datetime import datetime

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.models.chat_templates import MARK, STORED, TRAINING, draws, reads_clock, tidy, with_fixed_clock
from steps.prepare_data.write.splits import Preparation
from steps.prepare_data.write.templates import KEEP, check_chat_template, control_tokens


def settle(preparation: Preparation) -> None:
    """Check and clean the tokenizer's template, and name it.

    Raises UserError if there is none, or if it writes something else each time.
    """
    tokenizer, chosen = preparation.tokenizer, preparation.settings.preprocessing.chat_template
    check_chat_template(tokenizer)
    text = tokenizer.chat_template
    if draws(text):
        raise UserError(
            Problem("DATA-E0821", "chat_template", "a template that draws at random (random, lipsum)",
                    "a template that writes the same text each time", "remove it from the template",
                    why="the model would be asked in another way than it was trained")
        )  # fmt: skip
    if MARK in text:
        preparation.warn("DATA-W0810", "the chat template contains a byte order mark (U+FEFF), which was left out")
    tokenizer.chat_template = tidy(text)
    preparation.control_tokens = control_tokens(tokenizer)
    preparation.template_name = "the model's own" if chosen == KEEP else chosen


def settle_clock(preparation: Preparation) -> None:
    """Make templates that read the clock write the present time from now on, in each later step; warn of it.

    To be called last, because TRL knows templates by their exact text.
    """
    tokenizer, now = preparation.tokenizer, datetime.now()
    if not reads_clock(tokenizer.chat_template):
        return
    tokenizer.chat_template = with_fixed_clock(tokenizer.chat_template, now)
    if preparation.template:
        preparation.template = with_fixed_clock(preparation.template, now)
    preparation.warn("DATA-W0811", f"the chat template reads the clock (strftime_now): rows, prompts of the evaluation "
                     f"and the tuned model have the time of this step, {now:%Y-%m-%d %H:%M:%S}")  # fmt: skip


def store_templates(draft: Draft, preparation: Preparation) -> None:
    """Write the template if it is not exactly the model's own, and the copy with marks that the rows were made with."""
    tokenizer, chosen = preparation.tokenizer, preparation.settings.preprocessing.chat_template
    if chosen != KEEP or tokenizer.chat_template != tokenizer.init_kwargs.get("chat_template"):
        (draft / STORED).write_text(tokenizer.chat_template, encoding="utf-8")
    if preparation.template:
        (draft / TRAINING).write_text(preparation.template, encoding="utf-8")
