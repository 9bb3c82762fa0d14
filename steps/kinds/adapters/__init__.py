"""The kinds of adapters, one file each, in the order in which messages and pages list them."""

from collections.abc import Iterable

from steps.kinds.adapter_kind import AdapterKind
from steps.kinds.adapters import ia3, loha, lokr, lora, prompt_tuning

ADAPTER_KINDS: dict[str, AdapterKind] = {
    kind.name: kind for kind in (lora.KIND, ia3.KIND, loha.KIND, lokr.KIND, prompt_tuning.KIND)
}
# The same by PEFT's names, the values of peft_type in adapter_config.json.
IN_PEFT = {kind.peft_name: kind for kind in ADAPTER_KINDS.values()}
# PEFT's names of the kinds that are merged into weights, and of those that are stored beside the weights.
FOLDED_KINDS = tuple(kind.peft_name for kind in ADAPTER_KINDS.values() if not kind.is_kept)
KEPT_KINDS = tuple(kind.peft_name for kind in ADAPTER_KINDS.values() if kind.is_kept)


def put_into(layer: str) -> str:
    """Return the kinds that such layers can have: "lora or ia3"."""
    return one_of(kind.name for kind in ADAPTER_KINDS.values() if layer in kind.layers)


def for_every_model() -> str:
    """Return the kinds that work with every model and method: "lora, ia3, loha or lokr"."""
    return one_of(kind.name for kind in ADAPTER_KINDS.values() if not kind.heads)


def one_of(names: Iterable[str]) -> str:
    """Join names to a choice: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
