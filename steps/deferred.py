"""Heavy modules that libraries import for uses which few tasks have: they are loaded at their first use.

transformers loads scikit-learn for a threshold of assisted generation and scipy's optimizer for the losses of object
detection; peft loads bitsandbytes for weights in 4 or 8 bits. That is a fifth of what a task imports. Only the modules
in HEAVY get a stand-in; whoever else imports the same gets the module itself. peft loads bitsandbytes for every adapter
too, and it compiles functions as it is imported, for which torch loads its compiler: here they are compiled at their
first call. accelerate loads DeepSpeed before a model is saved: here only if the process has loaded it, since otherwise
nothing is an engine of it. And transformers and TRL both read the metadata of every installed distribution: here it is
read once.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

_LOSSES = ("deformable_detr", "for_object_detection", "grounding_dino", "lw_detr", "rf_detr", "rt_detr")
# Who imports → modules and the functions that it takes from them; of a module without functions it uses attributes.
HEAVY: dict[str, dict[str, tuple[str, ...]]] = {
    "transformers.generation.candidate_generator": {"sklearn.metrics": ("roc_curve",)},
    "transformers.data.metrics": {
        "scipy.stats": ("pearsonr", "spearmanr"),
        "sklearn.metrics": ("f1_score", "matthews_corrcoef"),
    },
    **{f"transformers.loss.loss_{name}": {"scipy.optimize": ("linear_sum_assignment",)} for name in _LOSSES},
    "peft.helpers": {"bitsandbytes": ()},
}
# Modules that ask for importlib.metadata.packages_distributions() as they are imported: a fifth of a second each.
ASKING = ("transformers.utils.import_utils", "trl.import_utils")
# Modules that call torch.compile as they are imported: torch's compiler takes longer to load than all of peft.
COMPILING = ("bitsandbytes.backends.default.ops",)
# Loads DeepSpeed to see whether a model that is saved is an engine of it.
UNWRAPPING = "accelerate.utils.other"


def defer() -> None:
    """From now on, modules of HEAVY are imported without what they name there, and the others do less."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules that are named above where they are, with a loader that makes their imports cheaper."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in HEAVY and fullname not in CONTEXTS:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found and found.loader:
            if fullname in CONTEXTS:
                found.loader = _Loader(found.loader, CONTEXTS[fullname]())
            # What is loaded costs nothing, and what is absent is told by its own error.
            heavy = {name: taken for name, taken in HEAVY.get(fullname, {}).items() if name not in sys.modules}
            if heavy and all(PathFinder.find_spec(name.partition(".")[0]) for name in heavy):
                found.loader = _Loader(found.loader, _stand_ins(heavy))
        return found


class _Loader(Loader):
    """Runs a module in a context."""

    def __init__(self, own: Loader, context: AbstractContextManager[None]):
        self.own, self.context = own, context

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__
        module.__spec__.loader = module.__loader__ = self.own  # for who asks for its source
        try:
            with self.context:
                self.own.exec_module(module)
        except ImportError:  # it, or what it imports, wants more of the heavy module than a stand-in has
            self.own.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


@contextmanager
def _asking_once() -> Iterator[None]:
    original = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _distributions(tuple(sys.path))
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


_read = importlib.metadata.packages_distributions


@functools.cache
def _distributions(_path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return which distributions each package belongs to, on this path."""
    return _read()


@contextmanager
def _compiling_later() -> Iterator[None]:
    import torch

    original = torch.compile
    torch.compile = cast(Any, _compiled_when_called)
    try:
        yield
    finally:
        torch.compile = original


def _compiled_when_called(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    """Do what torch.compile does, also as a decorator with options, at the function's first call."""
    if function is None:
        return functools.partial(_compiled_when_called, **options)

    @functools.cache
    def compiled() -> Callable[..., Any]:
        import torch

        return torch.compile(function, **options)

    return functools.wraps(function)(lambda *given, **named: compiled()(*given, **named))


@contextmanager
def _unwrapping() -> Iterator[None]:
    yield
    other = sys.modules[UNWRAPPING]
    available = other.is_deepspeed_available
    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules and available()  # type: ignore[attr-defined]


# In which contexts these modules are run.
CONTEXTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    **dict.fromkeys(ASKING, _asking_once),
    **dict.fromkeys(COMPILING, _compiling_later),
    UNWRAPPING: _unwrapping,
}


@contextmanager
def _stand_ins(heavy: dict[str, tuple[str, ...]]) -> Iterator[None]:
    made = [_StandIn(name, functions) for name, functions in heavy.items()]
    sys.modules.update({one.__name__: one for one in made})
    try:
        yield
    finally:
        for one in made:
            one._leave()


class _StandIn(ModuleType):
    """Has the attributes of a module, which is loaded when a function is called or another attribute is asked for."""

    def __init__(self, name: str, functions: tuple[str, ...]):
        super().__init__(name)
        for function in functions:
            setattr(self, function, _calling(name, function))

    def _leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # asked for by the import system
            raise AttributeError(name)
        self._leave()
        return getattr(importlib.import_module(self.__name__), name)


def _calling(heavy: str, function: str) -> Any:
    def call(*given: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(heavy), function)(*given, **named)

    call.__name__ = call.__qualname__ = function
    return call
