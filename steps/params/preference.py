"""How a model learns from what people prefer: the method, its loss, and what holds it near the model that it was."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from steps.errors import Problem, nearest
from steps.kinds.method import Loss, Method
from steps.kinds.methods import METHODS, PREFERENCE_METHODS
from steps.params.choice import OneOf
from steps.params.group import Group

OWN_LOSS = "auto"


class PreferenceMethod(Group):
    """How pairs of a better and a worse answer, or rated answers, change the model."""

    method: Annotated[str, OneOf(PREFERENCE_METHODS)] = "dpo"
    """Method: dpo, ipo and kto measure against the base model; orpo, cpo and simpo need no reference."""

    loss_type: str = Field(OWN_LOSS, min_length=1)
    """Loss: auto (the method's own); any of TRL's for dpo, several with commas; sigmoid, hinge, ipo, simpo for cpo."""

    loss_weights: str = ""
    """Weight of each loss of loss_type, with commas between; empty weighs them equally."""

    beta: float = Field(0.1, gt=0)
    """How strongly the reference holds the model back; ipo's tau, orpo's lambda, simpo's scale (usually 2 to 2.5)."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs that may be the wrong way round; for robust, exo_pair, aot and for cpo and simpo."""

    max_prompt_length: int = Field(1536, ge=1)
    """Longest prompt in tokens; a longer one loses its start, or its whole row with length_handling=filter."""

    reference_model_path: str = ""
    """Folder or URI of another model to measure against, with the same tokenizer; empty for the model as it came."""

    precompute_ref_log_probs: bool = False
    """Ask the reference once before training instead of at each step: less memory, and less time from two epochs on."""

    desirable_weight: float = Field(1.0, gt=0)
    """Weight of good answers for kto; raise it where they are rare."""

    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of bad answers for kto; raise it where they are rare."""

    kto_rows: Literal["rated", "pairs"] = "rated"
    """Rows for kto: rated (prompt, completion, label), or pairs, whose chosen answer is good and rejected one bad."""

    simpo_gamma: float = Field(0.5, ge=0)
    """Margin by which simpo wants the better answer's reward above the worse one's."""

    cpo_alpha: float = Field(1.0, ge=0)
    """Weight of learning the better answer as it stands, for cpo; simpo does none of it."""

    @property
    def learning(self) -> Method:
        """The record of the method."""
        return METHODS[self.method]

    @property
    def losses(self) -> list[str]:
        """The losses by name."""
        if self.loss_type == OWN_LOSS:
            return [next(iter(self.learning.losses))]
        return [name.strip() for name in self.loss_type.split(",")]

    @property
    def chosen_losses(self) -> dict[str, Loss]:
        """The records of the losses that the method knows."""
        return {name: self.learning.losses[name] for name in self.losses if name in self.learning.losses}

    @property
    def weights(self) -> list[float] | None:
        """Their weights; None weighs them equally."""
        return [float(weight) for weight in self.loss_weights.split(",")] if self.loss_weights else None

    @property
    def rated(self) -> bool:
        """Whether the rows are rated answers, not pairs."""
        return self.learning.rated and self.kto_rows == "rated"

    @property
    def unpairs(self) -> bool:
        """Whether pairs are taken apart."""
        return self.learning.rated and self.kto_rows == "pairs"

    def conflicts(self) -> Iterator[Problem]:
        """Each method has losses of its own, and parameters that only it knows."""
        unknown = list(self._unknown_losses())
        yield from unknown or self._wrong_losses()
        yield from self._unused()

    def _unknown_losses(self) -> Iterator[Problem]:
        known = self.learning.losses
        for name in self.losses:
            if name in known:
                continue
            other = name.partition("_")[0]  # kto_pair
            named = f"set method={other}" if other in PREFERENCE_METHODS and other != self.method else ""
            fix = named or nearest(name, known) or "set loss_type=auto"
            yield Problem("PARAM-E0251", "loss_type", f"{name} with method={self.method}",
                          f"auto, or one of {', '.join(known)}", fix)  # fmt: skip

    def _wrong_losses(self) -> Iterator[Problem]:
        losses = self.losses
        if len(losses) > 1 and not self.learning.sums_losses:
            summing = next(name for name in PREFERENCE_METHODS if METHODS[name].sums_losses)
            yield Problem("PARAM-E0252", "loss_type", f"{len(losses)} losses with method={self.method}", "one loss",
                          f"set method={summing}, which adds up several")  # fmt: skip
        if len(set(losses)) < len(losses):
            yield Problem("PARAM-E0252", "loss_type", self.loss_type, "each loss once",
                          "name it once, and weigh it with loss_weights")  # fmt: skip
        if self.loss_weights and not self._weighs():
            yield Problem("PARAM-E0253", "loss_weights", repr(self.loss_weights), f"{len(losses)} positive "
                          f"number{'s' if len(losses) > 1 else ''}, one for each loss of loss_type",
                          "write numbers with commas between, such as 0.8,0.2")  # fmt: skip
        yield from self._wrong_smoothing()

    def _wrong_smoothing(self) -> Iterator[Problem]:
        takers = sorted(name for name, loss in self.learning.losses.items() if loss.smooths)
        needing = [name for name, loss in self.chosen_losses.items() if loss.needs_smoothing]
        if needing and not self.label_smoothing:
            yield Problem("PARAM-E0254", "label_smoothing", f"0.0 with {needing[0]}", "a small number above 0",
                          "set label_smoothing=0.001")  # fmt: skip
        if self.label_smoothing and not set(takers) & set(self.losses):
            plain = Loss(smooths=True)
            other = [name for name, loss in self.learning.losses.items() if loss == plain]
            fix = f"leave it out, or set loss_type={other[0]}" if other else "leave it out"
            yield Problem("PARAM-E0254", "label_smoothing",
                          f"{self.label_smoothing} with the loss {', '.join(self.losses)}",
                          "0.0", fix, why=f"{self.method} smooths {', '.join(takers) or 'no loss'}")  # fmt: skip

    def _weighs(self) -> bool:
        try:
            weights = self.weights or []
        except ValueError:
            return False
        return len(weights) == len(self.losses) and all(0 < weight < float("inf") for weight in weights)

    def _unused(self) -> Iterator[Problem]:
        """Refuse what the method would ignore."""
        read = self.learning.reads.union(*(loss.reads for loss in self.chosen_losses.values()))
        for name, takers in _takers().items():
            value, default = getattr(self, name), PreferenceMethod.model_fields[name].default
            if name not in read and value != default:
                yield Problem("PARAM-E0255", name, f"{str(value).lower()} with method={self.method}",
                              ", or ".join(takers), "leave it out, or change method",
                              why=f"{self.method} knows no {name}")  # fmt: skip


def _takers() -> dict[str, list[str]]:
    """Parameter that only some methods or losses read → which of them."""
    takers: dict[str, list[str]] = {}
    for name in PREFERENCE_METHODS:
        for parameter in sorted(METHODS[name].reads | next(iter(METHODS[name].losses.values())).reads):
            takers.setdefault(parameter, []).append(f"method={name}")
    for name in PREFERENCE_METHODS:
        for loss, record in list(METHODS[name].losses.items())[1:]:
            for parameter in sorted(record.reads):
                takers.setdefault(parameter, []).append(f"method={name} with loss_type={loss}")
    return takers
