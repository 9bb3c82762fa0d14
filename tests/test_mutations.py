"""The table of mistakes that `mutations.py` makes fits the source."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from mutated import MUTATIONS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_the_code_of_a_mutation_stands_once_in_its_file_and_compiles_when_it_is_replaced(mutation):
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.before) == 1, f"write the row {mutation.name} anew: its code is gone, or there twice"
    mutated = source.replace(mutation.before, mutation.after)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    compile(mutated, mutation.file, "exec")


def test_mutations_have_names_of_their_own_and_tests_that_exist():
    assert [name for name, count in Counter(one.name for one in MUTATIONS).items() if count > 1] == []
    assert {test for one in MUTATIONS for test in one.tests if not (ROOT / "tests" / test).is_file()} == set()


def test_there_are_enough_of_them():
    decided = [one for one in MUTATIONS if one.room in ("steps/plan", "steps/params", "steps/kinds", "steps/launch")]
    assert len(decided) >= 24
    assert len(MUTATIONS) - len(decided) >= 20
    assert sum(bool(one.explained) for one in MUTATIONS) <= 2
