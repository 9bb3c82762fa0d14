"""How a model learns from what people prefer: the method, its loss, and what holds it near the model that it was."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem, nearest
from steps.params.group import Group

OWN_LOSS = "auto"
# Losses of TRL 1.16 by method; the first is the method's own. It refuses an unknown one at its first step only.
LOSSES = {
    "dpo": (
        "sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
        "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
    ),
    "ipo": ("ipo",),
    "kto": ("kto", "apo_zero_unpaired"),
    "orpo": ("orpo",),
    "cpo": ("sigmoid", "hinge", "ipo", "simpo"),
    "simpo": ("simpo",),
}  # fmt: skip
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
SMOOTHED_WITHOUT_REFERENCE = {"sigmoid", "simpo"}
SORTED_WITHIN_BATCH = ("aot", "aot_unpaired")
WITHOUT_REFERENCE = ("orpo", "cpo", "simpo")


class PreferenceMethod(Group):
    """How pairs of a better and a worse answer, or rated answers, change the model."""

    method: Literal["dpo", "ipo", "kto", "orpo", "cpo", "simpo"] = "dpo"
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
    def losses(self) -> list[str]:
        """The losses by name."""
        if self.loss_type == OWN_LOSS:
            return [LOSSES[self.method][0]]
        return [name.strip() for name in self.loss_type.split(",")]

    @property
    def weights(self) -> list[float] | None:
        """Their weights; None weighs them equally."""
        return [float(weight) for weight in self.loss_weights.split(",")] if self.loss_weights else None

    @property
    def compares(self) -> bool:
        """Whether the method asks a reference model."""
        return self.method not in WITHOUT_REFERENCE

    @property
    def unpairs(self) -> bool:
        """Whether pairs are taken apart."""
        return self.method == "kto" and self.kto_rows == "pairs"

    def conflicts(self) -> Iterator[Problem]:
        """Each method has losses of its own, and parameters that only it knows."""
        unknown = list(self._unknown_losses())
        yield from unknown or self._wrong_losses()
        yield from self._unused()

    def _unknown_losses(self) -> Iterator[Problem]:
        known = LOSSES[self.method]
        for name in self.losses:
            if name in known:
                continue
            other = name.partition("_")[0]  # kto_pair
            named = f"set method={other}" if other in LOSSES and other != self.method else ""
            fix = named or nearest(name, known) or "set loss_type=auto"
            yield Problem("PARAM-E0251", "loss_type", f"{name} with method={self.method}",
                          f"auto, or one of {', '.join(known)}", fix)  # fmt: skip

    def _wrong_losses(self) -> Iterator[Problem]:
        losses = self.losses
        if self.method != "dpo" and len(losses) > 1:
            yield Problem("PARAM-E0252", "loss_type", f"{len(losses)} losses with method={self.method}", "one loss",
                          "set method=dpo, which adds up several")  # fmt: skip
        if len(set(losses)) < len(losses):
            yield Problem("PARAM-E0252", "loss_type", self.loss_type, "each loss once",
                          "name it once, and weigh it with loss_weights")  # fmt: skip
        if self.loss_weights and not self._weighs():
            yield Problem("PARAM-E0253", "loss_weights", repr(self.loss_weights), f"{len(losses)} positive "
                          f"number{'s' if len(losses) > 1 else ''}, one for each loss of loss_type",
                          "write numbers with commas between, such as 0.8,0.2")  # fmt: skip
        takers = self._smoothed()
        if "exo_pair" in losses and self.method == "dpo" and not self.label_smoothing:
            yield Problem("PARAM-E0254", "label_smoothing", "0.0 with exo_pair", "a small number above 0",
                          "set label_smoothing=0.001")  # fmt: skip
        if self.label_smoothing and not takers & set(losses):
            fix = "leave it out, or set loss_type=robust" if self.method == "dpo" else "leave it out"
            yield Problem("PARAM-E0254", "label_smoothing", f"{self.label_smoothing} with the loss {', '.join(losses)}",
                          f"0.0: {self.method} smooths {', '.join(sorted(takers)) or 'no loss'}", fix)  # fmt: skip

    def _weighs(self) -> bool:
        try:
            weights = self.weights or []
        except ValueError:
            return False
        return len(weights) == len(self.losses) and all(0 < weight < float("inf") for weight in weights)

    def _smoothed(self) -> set[str]:
        if self.method in ("cpo", "simpo"):
            return SMOOTHED_WITHOUT_REFERENCE
        return SMOOTHED if self.method == "dpo" else set()

    def _unused(self) -> Iterator[Problem]:
        """Refuse what the method would ignore."""
        simpo = self.losses == ["simpo"]
        needed = {
            "reference_model_path": (self.compares, "a method with a reference: dpo, ipo or kto"),
            "precompute_ref_log_probs": (self.compares, "a method with a reference: dpo, ipo or kto"),
            "desirable_weight": (self.method == "kto", "method=kto"),
            "undesirable_weight": (self.method == "kto", "method=kto"),
            "kto_rows": (self.method == "kto", "method=kto"),
            "simpo_gamma": (simpo, "method=simpo, or method=cpo with loss_type=simpo"),
            "cpo_alpha": (self.method == "cpo", "method=cpo"),
        }
        for name, (used, wants) in needed.items():
            value, default = getattr(self, name), PreferenceMethod.model_fields[name].default
            if value != default and not used:
                yield Problem("PARAM-E0255", name, f"{str(value).lower()} with method={self.method}",
                              f"{wants}; {self.method} knows no {name}", "leave it out, or change method")  # fmt: skip
