"""Quantisation of frozen weights to 8 or 4 bits with bitsandbytes."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group

PACKAGE = "bitsandbytes"
# Parameters used with only one of the two.
OF_4_BIT = ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")
OF_8_BIT = ("llm_int8_threshold",)


class QuantisationParams(Group):
    """Storage of the frozen weights, in inference or while an adapter is trained."""

    load_in_8bit: bool = False
    """Store the frozen weights in 8 bits (LLM.int8); training needs an adapter: half the memory of 16 bits, slower."""

    load_in_4bit: bool = False
    """Store the frozen weights in 4 bits (QLoRA); training needs an adapter: a quarter of the memory, slower."""

    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    """4-bit data type: fp4 (floating point), or nf4 (values distributed like weights), usually more accurate."""

    bnb_4bit_use_double_quant: bool = False
    """Also quantise the scales of the 4-bit blocks; saves another 0.4 bits per weight."""

    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of matrix products with 4-bit weights; auto uses that of precision."""

    llm_int8_threshold: float = Field(6.0, ge=0)
    """Inputs above this threshold are multiplied in 16 bits, the others in 8; 0 multiplies all in 8 bits."""

    @property
    def bits(self) -> int:
        """Bits per stored weight; 0 without quantisation."""
        return 8 if self.load_in_8bit else 4 if self.load_in_4bit else 0

    def conflicts(self) -> Iterator[Problem]:
        """Refuse both at once, and parameters of the one that is not used."""
        if self.load_in_8bit and self.load_in_4bit:
            yield Problem("PARAM-E0276", "load_in_4bit", "true with load_in_8bit=true", "one of the two",
                          "leave one of them out")  # fmt: skip
        for names, switch in ((OF_4_BIT, "load_in_4bit"), (OF_8_BIT, "load_in_8bit")):
            for name in names if not getattr(self, switch) else ():
                value, default = getattr(self, name), QuantisationParams.model_fields[name].default
                if value != default:
                    yield Problem("PARAM-E0277", name, f"{shown(value)} with {switch}=false",
                                  shown(default), f"set {switch}=true, or leave it out",
                                  why=f"it is only used with {switch}=true")  # fmt: skip
