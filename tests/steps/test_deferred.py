"""What libraries import for rare uses is loaded at its first use, and is then the module itself."""

import importlib
import subprocess
import sys

import pytest

from steps import deferred

SCRIPT = """
import sys
import steps.running
import peft.helpers, transformers.data.metrics, transformers.loss.loss_for_object_detection
from transformers.generation import candidate_generator
import importlib.metadata, trl.import_utils, transformers.utils.import_utils
ours, theirs = (
    sys.modules[f"{name}.import_utils"].PACKAGE_DISTRIBUTION_MAPPING for name in ("trl", "transformers.utils")
)
told = importlib.metadata.packages_distributions()
assert importlib.metadata.packages_distributions.__module__ == "importlib.metadata"
assert ours == told
assert ours is theirs
heavy = ("sklearn", "scipy.stats", "scipy.optimize", "bitsandbytes", "torch._inductor.compile_fx")
found = [name for name in heavy if name in sys.modules]
assert found == [], found
assert candidate_generator.__spec__.loader.get_source(candidate_generator.__name__).startswith("# Copyright")

import inspect
assert "class AssistedCandidateGenerator" in inspect.getsource(candidate_generator)
for made, wanted in zip(candidate_generator.roc_curve([0, 1, 1], [0.1, 0.9, 0.4]), ([0, 0, 0, 1], [0, .5, 1, 1])):
    assert list(made) == wanted, made
assert transformers.data.metrics.f1_score([1, 0, 0], [1, 0, 1]) == 2 / 3
rows, columns = transformers.loss.loss_for_object_detection.linear_sum_assignment([[4, 1], [2, 3]])
assert (list(rows), list(columns)) == ([0, 1], [1, 0])
import accelerate, torch
model = torch.nn.Linear(2, 2)
assert accelerate.utils.extract_model_from_parallel(torch.nn.DataParallel(model)) is model
assert "deepspeed" not in sys.modules
import deepspeed
engine = object.__new__(deepspeed.DeepSpeedEngine)
torch.nn.Module.__init__(engine)
engine.module = model
assert accelerate.utils.extract_model_from_parallel(engine) is model
assert peft.helpers.bnb is not None
assert peft.helpers.bnb.functional.dequantize_4bit is __import__("bitsandbytes").functional.dequantize_4bit
compiled = []
original, torch.compile = torch.compile, lambda function, **options: compiled.append(options) or function
ops = sys.modules["bitsandbytes.backends.default.ops"]
numbers, code = torch.tensor([3, 0, 1, 2], dtype=torch.uint8), torch.tensor([-1.0, -0.5, 0.5, 1.0])
for _ in range(2):
    found = ops._dequantize_blockwise_compute(numbers, torch.tensor([2.0]), code, 4, torch.float32)
    assert found.tolist() == [2.0, -2.0, -1.0, 1.0], found
assert compiled == [{"dynamic": False}], compiled
torch.compile = original
from sklearn import metrics
assert metrics.__spec__ and metrics.f1_score is not transformers.data.metrics.f1_score
"""


@pytest.mark.slow
def test_a_training_loads_no_module_of_a_rare_use_and_the_use_gives_what_the_module_gives():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules that are found and not loaded yet; `library` defers what it takes from `rare`."""
    finders = list(sys.meta_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", finders)
    deferred.defer()
    names = ("deferred_library", "deferred_other", "deferred_rare", "deferred_rare.inner")

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"deferred_{name}.py").write_text(text)
        importlib.invalidate_caches()

    write(rare="def double(one): return 2 * one\nWORDS = ['a']")
    monkeypatch.setitem(deferred.HEAVY, "deferred_library", {"deferred_rare": ("double",)})
    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_a_function_is_loaded_when_it_is_called_and_an_attribute_when_it_is_read(package):
    package(library="from deferred_rare import double\nimport deferred_rare as rare")
    library = importlib.import_module("deferred_library")
    assert "deferred_rare" not in sys.modules
    assert library.double(3) == 6
    assert library.rare.WORDS is sys.modules["deferred_rare"].WORDS
    with pytest.raises(AttributeError, match="NOTHING"):
        _ = library.rare.NOTHING


def test_others_that_import_it_meanwhile_or_later_get_the_module(package):
    package(library="import deferred_other", other="from deferred_rare import WORDS, double")
    library = importlib.import_module("deferred_library")
    assert library.deferred_other.WORDS is sys.modules["deferred_rare"].WORDS
    assert importlib.import_module("deferred_rare").double(2) == 4


def test_what_needs_more_than_a_stand_in_is_imported_as_ever(package, tmp_path):
    (tmp_path / "deferred_rare").mkdir()
    (tmp_path / "deferred_rare/__init__.py").write_text("def double(one): return 2 * one")
    (tmp_path / "deferred_rare/inner.py").write_text("from deferred_rare import double")
    package(library="from deferred_rare.inner import double")
    library = importlib.import_module("deferred_library")
    assert library.double is sys.modules["deferred_rare"].double


def test_a_module_that_is_absent_is_missed_as_ever(package, tmp_path, monkeypatch):
    monkeypatch.setitem(deferred.HEAVY, "deferred_library", {"deferred_absent": ("double",)})
    package(library="try:\n    from deferred_absent import double\nexcept ImportError:\n    double = None")
    assert importlib.import_module("deferred_library").double is None


def test_an_error_of_the_importing_module_is_its_own(package):
    package(library="from deferred_rare import double\nraise ImportError('a library of its own')")
    with pytest.raises(ImportError, match="a library of its own"):
        importlib.import_module("deferred_library")
    assert isinstance(importlib.import_module("deferred_rare").WORDS, list)
