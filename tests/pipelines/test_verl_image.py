"""The packages of the verl image: what verl 0.9.1 and our code need there, in versions that fit together."""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_rooms import files, imports

ROOT = Path(__file__).parents[2]
LIST = ROOT / "requirements-verl-image.txt"
DOCKERFILES = sorted(ROOT.glob("containers/*/Dockerfile"))
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.9", "platform_system": "Linux", "sys_platform": "linux",
         "platform_machine": "x86_64", "implementation_name": "cpython", "os_name": "posix",
         "platform_python_implementation": "CPython"}  # fmt: skip
# What runs there: the task finetune, its training with verl, and rewards in verl's processes.
RUNS = ("pipelines/components.py", "pipelines/in_pod.py", "steps/*.py", "steps/finetune/*.py",
        *(f"steps/{room}/**/*.py" for room in ("adapters", "kinds", "launch", "models", "params", "reports", "rewards",
                                               "sources", "tasks", "tracking", "verl")))  # fmt: skip
ELSEWHERE = {
    "optuna": "a sweep's trials",
    "deepspeed": "trainings with apply_deepspeed",
}  # imported where these need it


def pins(file: Path) -> dict[str, str]:
    """Return the version of each package of a list."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def lines_of(file: Path) -> Iterator[Requirement]:
    for line in file.read_text().splitlines():
        if text := line.partition("#")[0].strip():
            yield Requirement(text)


def needed(distribution: Distribution, extras: Iterable[str] = ("",)) -> list[Requirement]:
    """What a package needs in the image, with these extras; an extra may name others of the same package."""
    found: list[Requirement] = []
    for text in distribution.requires or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({**IMAGE, "extra": extra}) for extra in extras):
            own = canonicalize_name(one.name) == canonicalize_name(distribution.name)
            found += needed(distribution, one.extras) if own else [one]
    return found


def unmet(wanted: Iterable[Requirement], given: dict[str, str]) -> list[str]:
    return [
        f"{one}: {given.get(canonicalize_name(one.name))}"
        for one in wanted
        if not one.specifier.contains(given.get(canonicalize_name(one.name), "0.dev0"), prereleases=True)
        or canonicalize_name(one.name) not in given
    ]


GIVEN = pins(LIST)


def of_verl() -> Distribution:
    (found,) = distributions(name="verl", path=[str(ROOT / ".venv/verl")])
    return found


def test_verl_with_vllm_finds_every_package_in_a_version_that_it_takes():
    wanted = needed(of_verl(), ("", "vllm"))
    assert {"torch", "vllm", "ray", "TransferQueue", "tensordict"} <= {one.name for one in wanted}
    assert GIVEN["verl"] == of_verl().version
    assert unmet(wanted, GIVEN) == []


@pytest.mark.parametrize(
    ("name", "version"), [("transformers", "5.17.0"), ("tensordict", "0.9.0"), ("numpy", "1.26.4")]
)
def test_another_version_would_be_noticed(name, version):
    (told,) = {line.partition(":")[2] for line in unmet(needed(of_verl(), ("", "vllm")), {**GIVEN, name: version})}
    assert told == f" {version}"


def test_no_package_of_the_list_misses_another_or_has_a_version_that_it_does_not_take():
    known = {
        canonicalize_name(one.name): one for one in [*distributions(), *distributions(path=[str(ROOT / ".venv/verl")])]
    }
    same = {name: one for name, one in known.items() if GIVEN.get(name) == one.version}
    assert len(same) > 150
    assert {name: gaps for name, one in same.items() if (gaps := unmet(needed(one), GIVEN))} == {}


def test_verl_is_tested_with_the_packages_of_the_list():
    tested = pins(ROOT / "requirements-verl.txt")
    assert {name: GIVEN[name] for name in tested} == tested


def test_the_list_has_everything_that_was_asked_for():
    assert unmet(lines_of(ROOT / "containers/verl/asked.txt"), GIVEN) == []


def test_the_head_of_the_list_names_each_package_of_another_version_than_elsewhere():
    elsewhere = pins(ROOT / "requirements.txt")
    head = re.search(r"# Of other versions than requirements.txt:(.*?)\n[^#]", LIST.read_text(), re.S)[1]
    different = {name for name, version in GIVEN.items() if elsewhere.get(name, version) != version}
    assert (
        set(re.findall(r"[\w-]+", re.sub(r"\(.*?\)", "", head.replace("\n#", ""), flags=re.S))) - {"and"} == different
    )


def test_the_page_has_the_versions_of_both_lists():
    page = (ROOT / "docs/verl.md").read_text().partition("## The image\n")[2].partition("\n## ")[0]
    elsewhere = pins(ROOT / "requirements.txt")
    told = {}
    for names, there, here in re.findall(r"^\| ([a-z][\w, -]+) \| (\d.*?) \| (.*?) \|", page, re.M):
        ours = here.split(", ") if here != "not there" else [None] * (names.count(",") + 1)
        told |= dict(zip(names.split(", "), zip(there.split(", "), ours, strict=True), strict=True))
    assert told == {name: (elsewhere[name], GIVEN.get(name)) for name in told}
    assert {name for name, version in GIVEN.items() if elsewhere.get(name, version) != version} <= set(told)


def test_everything_that_our_code_imports_there_is_in_the_list():
    owners = packages_distributions()
    missing: dict[str, list[str]] = {}
    for file in files(*RUNS):
        for module in {name.partition(".")[0] for name in imports(file)} - {
            *sys.stdlib_module_names,
            "steps",
            "pipelines",
        }:
            if not {canonicalize_name(owner) for owner in owners.get(module, [module])} & set(GIVEN):
                missing.setdefault(module, []).append(str(file.relative_to(ROOT)))
    assert set(missing) == set(ELSEWHERE), missing


def test_the_list_has_no_trl_because_verl_changes_a_class_of_it_that_is_gone():
    patch = (ROOT / ".venv/verl/verl/models/transformers/monkey_patch.py").read_text()
    assert "if is_trl_available():" in patch
    assert "from trl import AutoModelForCausalLMWithValueHead" in patch
    assert not any("ValueHead" in file.read_text() for file in trl_files())
    assert "trl" not in GIVEN


def trl_files() -> list[Path]:
    (found,) = distributions(name="trl")
    return [Path(found.locate_file(file)) for file in found.files or () if file.suffix == ".py"]


def test_all_images_begin_with_the_same_layers():
    first, *others = [
        file.read_text().partition("FROM ")[2].partition("WORKDIR /opt/project\n") for file in DOCKERFILES
    ]
    assert len(others) == 2
    code = re.compile(r"COPY pyproject\.toml README\.md containers/\w+/sbom\.cdx\.json \./\n")
    ends = {code.split(end)[1] for _, _, end in [first, *others]}
    assert len(ends) == 1
    beginnings = [re.sub(r"# As far as .*\n", "", begin) for begin, _, _ in [first, *others]]
    assert set(beginnings) == {beginnings[0]}


def test_a_builder_gets_every_file_that_an_image_is_made_of():
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M))
    copied = {
        word for file in DOCKERFILES for words in re.findall(r"^COPY (.*) \S+$", file.read_text(), re.M)
        for word in words.split()
    }  # fmt: skip
    assert copied == let_in
