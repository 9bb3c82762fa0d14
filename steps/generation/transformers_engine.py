"""Engine `accelerate`: transformers on the CPU, one GPU, or all GPUs that the process sees (device_map)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from steps.errors import OutOfResources, Problem, UserError
from steps.generation.decoding_rules import refuse_wrong, split
from steps.generation.requests import Completion, Request
from steps.models.layout import VOCABULARIES
from steps.params.settings import GenerateSettings

log = logging.getLogger("finetune")

KINDS = ("causal_lm", "seq2seq_lm")


def missing(settings: GenerateSettings) -> str:
    """Return what this machine lacks for the engine, in words; empty if nothing. Loads no torch."""
    needed = ["torch", "transformers", *(["peft"] if settings.engine.adapter_separate else [])]
    needed += ["accelerate", "bitsandbytes"] if settings.quantisation.bits else []
    absent = [name for name in needed if find_spec(name) is None]
    return f"the package{'s' * (len(absent) > 1)} {' and '.join(absent)}" if absent else ""


def open_engine(settings: GenerateSettings, model: Path | None, adapter: Path | None = None) -> TransformersEngine:
    """Load the model, quantised if asked for, with the adapter beside its weights.

    Raises UserError for settings that cannot be followed or a missing package, SecurityRefusal for pickled weights,
    OutOfResources if the model does not fit into the GPUs.
    """
    refuse_wrong(settings.decoding)
    _refuse_others(settings, model, adapter)
    assert model is not None
    return TransformersEngine(settings, model, adapter)


def _refuse_others(settings: GenerateSettings, model: Path | None, adapter: Path | None) -> None:
    lacking = missing(settings) or ("the package peft" if adapter and find_spec("peft") is None else "")
    problems = []
    if lacking:
        problems.append(Problem("GEN-E0201", "inference_type", f"a machine without {lacking}", "the packages",
                                "install them, or use another inference_type"))  # fmt: skip
    if settings.decoding.response_format:
        problems.append(Problem("GEN-E0205", "response_format", "set with inference_type=accelerate", "nothing",
                                "use inference_type=vllm or endpoint, or leave it out",
                                why="transformers does not restrict answers to a form"))  # fmt: skip
    if settings.kind not in KINDS or model is None:
        found = "no model" if model is None else f"a model of the kind {settings.kind}"
        problems.append(Problem("GEN-E0206", "model", found, f"a model that writes texts ({', '.join(KINDS)})",
                                "name another model"))  # fmt: skip
    if problems:
        raise UserError(problems)


class TransformersEngine:
    """A loaded model with its tokenizer."""

    name = "accelerate"

    def __init__(self, settings: GenerateSettings, folder: Path, adapter: Path | None):
        import torch

        from steps.generation.configuring import how_to_decode

        self._decoding = split(settings.decoding)[0]
        self._encoder = settings.recipe.kind.has_encoder
        packages = ["torch", "transformers", *(["peft"] if adapter else [])]
        packages += ["bitsandbytes"] if settings.quantisation.bits else []
        self.versions = {name: version(name) for name in packages}
        self._tokenizer = _tokenizer(folder, adapter, self._encoder)
        try:
            self._model = self._load(settings, folder, adapter)
        except torch.OutOfMemoryError:
            raise OutOfResources(
                Problem("GEN-E0502", str(folder), "no GPU memory left for the weights", "memory for the model",
                        "use more or larger GPUs, or set load_in_8bit or load_in_4bit")
            ) from None  # fmt: skip
        self._how = how_to_decode(settings.decoding, self._model, self._tokenizer, settings.engine.test_batch_size)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield (index in `requests`, answer) as answers are finished, longest prompts first.

        A prompt that is too long loses its start; that of an encoder-decoder model its end, as in training.
        """
        from steps.generation.answering import answer
        from steps.generation.prompting import as_prompts

        if not requests:
            return
        prompts, cut = as_prompts(requests, self._decoding, self._model, self._tokenizer)
        told = [number for number, truncated in enumerate(cut) if truncated]
        if told:
            log.warning("WARNING %d of %d prompts were truncated, first that of row %d", len(told), len(requests),
                        requests[told[0]].row)  # fmt: skip
        for number, written in answer(self._model, prompts, self._how):
            yield (
                number,
                Completion(
                    text=self._text(written.tokens),
                    finish_reason="stop" if written.stopped else "length",
                    prompt_tokens=len(prompts[number].ids),
                    completion_tokens=len(written.tokens),
                    token_ids=written.tokens,
                    logprobs=written.logprobs,
                    truncated=cut[number],
                ),
            )

    def _load(self, settings: GenerateSettings, folder: Path, adapter: Path | None) -> Any:
        """Return the model, ready to compute; engines with transformers' models inside load theirs otherwise."""
        return _model(settings, folder, adapter)

    def _text(self, tokens: Sequence[int]) -> str:
        from steps.generation.decoding import answer_tokens
        from steps.generation.encoder_decoders import opening_tokens

        opening = opening_tokens(self._model, self._tokenizer, self._how.config) if self._encoder else ()
        kept = answer_tokens(tokens, self._how.ends, self._how.config.pad_token_id, opening)
        text = str(self._tokenizer.decode(kept, skip_special_tokens=self._decoding.skip_special_tokens))
        return self._how.stops.before(text) if self._how.stops else text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        from steps.generation.memory import freed

        self._model = None
        freed()


def number_type_of(settings: GenerateSettings) -> str:
    """Return the type that is computed with, as torch names it."""
    import torch

    from steps.models.quantising import sixteen_bit_type

    bits = settings.engine.inference_precision
    half = bits == "half" or (bits == "auto" and torch.cuda.is_available())
    return sixteen_bit_type() if half else "float32"


def _model(settings: GenerateSettings, folder: Path, adapter: Path | None) -> Any:
    import torch
    import transformers

    from steps.generation.loading import load
    from steps.generation.soft_prompts import with_adapter
    from steps.models.quantising import keep_as_stored, quantised

    number_type = number_type_of(settings)
    kind = getattr(transformers, settings.recipe.kind.auto_class)
    options = {"dtype": getattr(torch, number_type), **quantised(settings.quantisation, number_type)}
    model = keep_as_stored(load(kind, folder, "32" if number_type == "float32" else "16", **options))
    return with_adapter(model, adapter).eval() if adapter else model


def _tokenizer(folder: Path, adapter: Path | None, encoder: bool) -> Any:
    from steps.generation.tokenizer import load_tokenizer
    from steps.models.seq2seq import load_tokenizer as load_for_encoder

    own = adapter if adapter and any((adapter / name).is_file() for name in VOCABULARIES) else folder
    return load_for_encoder(own) if encoder else load_tokenizer(own)
