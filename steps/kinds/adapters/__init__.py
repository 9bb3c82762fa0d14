"""The kinds of adapters, one file each, in the order of the choices of peft_type."""

from collections.abc import Iterable

from steps.kinds.adapter_kind import AdapterKind
from steps.kinds.adapters import ia3, loha, lokr, lora, prompt_tuning

ADAPTER_KINDS: dict[str, AdapterKind] = {
    kind.name: kind for kind in (lora.KIND, ia3.KIND, loha.KIND, lokr.KIND, prompt_tuning.KIND)
}
# The same by PEFT's names, as in adapter_config.json.
IN_PEFT = {kind.peft_name: kind for kind in ADAPTER_KINDS.values()}
# PEFT's names of the kinds that are merged into weights, and of those that a tuned model keeps in a folder.
FOLDED_KINDS = tuple(kind.peft_name for kind in ADAPTER_KINDS.values() if not kind.is_kept)
KEPT_KINDS = tuple(kind.peft_name for kind in ADAPTER_KINDS.values() if kind.is_kept)


def put_into(layer: str) -> str:
    """Return the kinds that can be added to such layers, as text: "lora or ia3"."""
    return one_of(kind.name for kind in ADAPTER_KINDS.values() if layer in kind.layers)


def for_every_model() -> str:
    """Return the kinds that support every kind of model and every method, as text."""
    return one_of(kind.name for kind in ADAPTER_KINDS.values() if not kind.heads)


def one_of(names: Iterable[str]) -> str:
    """Return names as a choice: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
