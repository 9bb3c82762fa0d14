"""Parameters that mean nothing for what a task's model puts out: set away from the default, they are refused."""

from collections.abc import Iterator

from steps.errors import Problem, shown
from steps.params.pipelines import SupervisedParameters
from steps.params.settings import Head

_NO_CHAT = "the rows are no conversations"
_TAKEN_APART = "only the vocabulary of a model that goes on from its prompt is extended"
_WHOLE = "the whole text is learned"
_NOTHING_GENERATED = "nothing is generated"
_ENCODER_ONLY = "the model has no encoder"
_DECODED = "text and answer are read apart, and all of the answer is learned"
_ANSWERS_COMPARED = "what is learned is which answer is better; the prompt never carries loss"


def _unfit_for_reading(learned: str) -> dict[str, str]:
    """What a model cannot have that reads texts and writes none; `learned` says what it learns instead."""
    return {
        "packing": "each row is judged by itself, so rows cannot share a sequence",
        "chat_template": _NO_CHAT,
        "add_template_tokens": _NO_CHAT,
        "additional_special_tokens": _TAKEN_APART,
        "train_on_completions_only": learned,
        "response_template": learned,
        "instruction_template": learned,
        "comma_separated_template": learned,
        "evaluation_max_new_tokens": _NOTHING_GENERATED,
    }


# What the model puts out → parameter → why it cannot have it.
UNFIT: dict[Head, dict[str, str]] = {
    "causal_lm": {},
    "seq2seq_lm": {
        "additional_special_tokens": _TAKEN_APART,
        "packing": "each text is read by itself",
        "pad_to_max_length": "text and answer are padded to the longest of their batch",
        "text_separator": "text and answer are read apart, nothing stands between them",
        "train_on_completions_only": _DECODED,
        "response_template": _DECODED,
        "instruction_template": _DECODED,
        "comma_separated_template": _DECODED,
    },
    "masked_lm": {"additional_special_tokens": _TAKEN_APART},
    "preference_lm": {
        "packing": "each answer is measured by itself",
        "train_on_completions_only": _ANSWERS_COMPARED,
        "response_template": _ANSWERS_COMPARED,
        "instruction_template": _ANSWERS_COMPARED,
        "comma_separated_template": _ANSWERS_COMPARED,
        "lora_dropout": "dropout is switched off, for rewards are small differences of probabilities",
    },
    "token_classification": _unfit_for_reading("the tags are learned, not the text"),
    "question_answering": {
        **_unfit_for_reading("the place of the answer is learned, not the text"),
        "length_handling": "a long context is cut into windows",
    },
    "sequence_classification": _unfit_for_reading("the label is learned, not the text"),
}

# The same for single tasks.
UNFIT_TASK: dict[str, dict[str, str]] = {
    "pretraining": {
        "chat_template": _NO_CHAT,
        "add_template_tokens": _NO_CHAT,
        "train_on_completions_only": _WHOLE,
        "response_template": _WHOLE,
        "instruction_template": _WHOLE,
        "comma_separated_template": _WHOLE,
        "evaluation_max_new_tokens": _NOTHING_GENERATED,
    },
    "summarization": {"chat_template": _NO_CHAT, "add_template_tokens": _NO_CHAT},
    "translation": {"chat_template": _NO_CHAT, "add_template_tokens": _NO_CHAT},
}

# And for tasks that several kinds of models can do.
UNFIT_TASK_AND_HEAD: dict[tuple[str, Head], dict[str, str]] = {
    (task, "causal_lm"): {"max_target_length": _ENCODER_ONLY, "num_beams": _ENCODER_ONLY}
    for task in ("summarization", "translation")
}


def unfit(parameters: SupervisedParameters, head: Head) -> Iterator[Problem]:
    """Refuse what would otherwise be ignored."""
    task = parameters.task
    for name, reason in {
        **UNFIT[head],
        **UNFIT_TASK.get(task, {}),
        **UNFIT_TASK_AND_HEAD.get((task, head), {}),
    }.items():
        value = getattr(parameters, name)
        default = type(parameters).model_fields[name].default
        if value != default:
            yield Problem("PLAN-E0102", name, shown(value), f"{default!r} for {task}: {reason}",
                          "leave it out")  # fmt: skip
