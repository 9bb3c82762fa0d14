"""Preference training: the method, its loss, and how far the model may move from the reference model."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from steps.errors import Problem, nearest
from steps.kinds.method import Loss, Method
from steps.kinds.methods import METHODS, PREFERENCE_METHODS
from steps.params.choice import OneOf
from steps.params.group import Group
from steps.params.several import COMMAS

OWN_LOSS = "auto"


class PreferenceMethod(Group):
    """Method and loss of training on pairs of a better and a worse answer, or on rated answers."""

    method: Annotated[str, OneOf(PREFERENCE_METHODS)] = "dpo"
    """Method: dpo, ipo and kto compare with a reference model; orpo, cpo and simpo need none."""

    loss_type: Annotated[str, COMMAS] = Field(OWN_LOSS, min_length=1)
    """Loss: auto (the method's default); for dpo any of TRL's, comma-separated; for cpo sigmoid, hinge, ipo, simpo."""

    loss_weights: Annotated[str, COMMAS] = ""
    """Comma-separated weight of each loss of loss_type; empty weights them equally."""

    beta: float = Field(0.1, gt=0)
    """How closely the model stays to the reference; ipo's tau, orpo's lambda, simpo's scale (usually 2 to 2.5)."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed share of pairs with chosen and rejected swapped; for robust, exo_pair, aot, cpo and simpo."""

    max_prompt_length: int = Field(1536, ge=1)
    """Maximum prompt length in tokens; the start is truncated, or the row left out with length_handling=filter."""

    reference_model_path: str = ""
    """Folder or URI of another reference model with the same tokenizer; empty uses the model before training."""

    precompute_ref_log_probs: bool = False
    """Run the reference model once before training, not at each step: less memory; faster from two epochs on."""

    desirable_weight: float = Field(1.0, gt=0)
    """Weight of good answers for kto; raise it if they are rare."""

    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of bad answers for kto; raise it if they are rare."""

    kto_rows: Literal["rated", "pairs"] = "rated"
    """Rows for kto: rated (prompt, completion, label), or pairs (chosen is good, rejected is bad)."""

    simpo_gamma: float = Field(0.5, ge=0)
    """Target margin of simpo between the rewards of the better and the worse answer."""

    cpo_alpha: float = Field(1.0, ge=0)
    """Weight of the supervised loss on the better answer for cpo; has no effect for simpo."""

    @property
    def learning(self) -> Method:
        """The record of the method."""
        return METHODS[self.method]

    @property
    def losses(self) -> list[str]:
        """Names of the losses."""
        if self.loss_type == OWN_LOSS:
            return [next(iter(self.learning.losses))]
        return [name.strip() for name in self.loss_type.split(",")]

    @property
    def chosen_losses(self) -> dict[str, Loss]:
        """The records of the losses that the method supports."""
        return {name: self.learning.losses[name] for name in self.losses if name in self.learning.losses}

    @property
    def weights(self) -> list[float] | None:
        """Weights of the losses; None weights them equally."""
        return [float(weight) for weight in self.loss_weights.split(",")] if self.loss_weights else None

    @property
    def rated(self) -> bool:
        """Whether the rows are rated answers, not pairs."""
        return self.learning.rated and self.kto_rows == "rated"

    @property
    def unpairs(self) -> bool:
        """Whether each pair becomes two rated answers."""
        return self.learning.rated and self.kto_rows == "pairs"

    def conflicts(self) -> Iterator[Problem]:
        """Refuse losses and parameters that the method does not support."""
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
                          "name it once, and set its weight with loss_weights")  # fmt: skip
        if self.loss_weights and not self._weighs():
            yield Problem("PARAM-E0253", "loss_weights", repr(self.loss_weights), f"{len(losses)} positive "
                          f"number{'s' if len(losses) > 1 else ''}, one for each loss of loss_type",
                          "write numbers separated by commas, such as 0.8,0.2")  # fmt: skip
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
        """Refuse parameters that the method would ignore."""
        read = self.learning.reads.union(*(loss.reads for loss in self.chosen_losses.values()))
        for name, takers in _takers().items():
            value, default = getattr(self, name), PreferenceMethod.model_fields[name].default
            if name not in read and value != default:
                yield Problem("PARAM-E0255", name, f"{str(value).lower()} with method={self.method}",
                              ", or ".join(takers), "leave it out, or change method",
                              why=f"{name} has no effect for {self.method}")  # fmt: skip


def _takers() -> dict[str, list[str]]:
    """Parameter that only some methods or losses use → which of them."""
    takers: dict[str, list[str]] = {}
    for name in PREFERENCE_METHODS:
        for parameter in sorted(METHODS[name].reads | next(iter(METHODS[name].losses.values())).reads):
            takers.setdefault(parameter, []).append(f"method={name}")
    for name in PREFERENCE_METHODS:
        for loss, record in list(METHODS[name].losses.items())[1:]:
            for parameter in sorted(record.reads):
                takers.setdefault(parameter, []).append(f"method={name} with loss_type={loss}")
    return takers
