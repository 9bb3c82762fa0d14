"""A frozen base in 8 or 4 bits, with bitsandbytes."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group

PACKAGE = "bitsandbytes"
# Parameters that only one of the two ways reads.
OF_4_BIT = ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")
OF_8_BIT = ("llm_int8_threshold",)


class QuantisationParams(Group):
    """How the weights that an adapter leaves alone are stored while it is trained."""

    load_in_8bit: bool = False
    """Store the frozen base in 8 bits while an adapter is trained (LLM.int8): half of 16 bits' memory, slower."""

    load_in_4bit: bool = False
    """Store the frozen base in 4 bits while an adapter is trained (QLoRA): a quarter of 16 bits' memory, slower."""

    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    """The sixteen values of 4 bits: fp4 floating point, nf4 spread as weights are, which mostly loses less."""

    bnb_4bit_use_double_quant: bool = False
    """Quantise the scales of the 4-bit blocks as well, which saves another 0.4 bits for each weight."""

    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type that 4-bit weights are turned into for each product; auto takes that of precision."""

    llm_int8_threshold: float = Field(6.0, ge=0)
    """Inputs above this are multiplied in 16 bits beside the 8-bit product; 0 multiplies all of them in 8 bits."""

    @property
    def bits(self) -> int:
        """Bits of a stored weight; 0 where the weights stay as they are."""
        return 8 if self.load_in_8bit else 4 if self.load_in_4bit else 0

    def conflicts(self) -> Iterator[Problem]:
        """One way at a time, and no setting of the other."""
        if self.load_in_8bit and self.load_in_4bit:
            yield Problem("PARAM-E0276", "load_in_4bit", "true with load_in_8bit=true", "one of the two",
                          "leave one of them out")  # fmt: skip
        for names, switch in ((OF_4_BIT, "load_in_4bit"), (OF_8_BIT, "load_in_8bit")):
            for name in names if not getattr(self, switch) else ():
                value, default = getattr(self, name), QuantisationParams.model_fields[name].default
                if value != default:
                    yield Problem("PARAM-E0277", name, f"{shown(value)} with {switch}=false",
                                  shown(default), f"set {switch}=true, or leave it out",
                                  why="nothing is stored that way")  # fmt: skip
