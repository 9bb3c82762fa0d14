"""The assignment of rows to splits, and the messages about repeated rows."""

import json

import numpy as np
import pytest
from checking import check_data
from conftest import chat_rows, write_jsonl

from steps.errors import UserError
from steps.params.splits import split_sizes
from steps.prepare_data.check.splitting import split_rows


def texts(count, start=0):
    return [{"text": f"text number {number}"} for number in range(start, start + count)]


def rows_of(part):
    return [row["text"] for row in part.table().to_pylist()]


# Rows of the training file, other files, sizes of train, validation and test out of it (the ratios of the catalogue:
# 80/10/10, 80/20, 80/20, no split; the nearest whole row, and never none).
SIZES = [
    (100, set(), (80, 10, 10)),
    (60, set(), (48, 6, 6)),
    (1007, set(), (806, 100, 101)),
    (5, set(), (3, 1, 1)),
    (3, set(), (1, 1, 1)),
    (100, {"test"}, (80, 20, None)),
    (3, {"test"}, (2, 1, None)),
    (100, {"validation"}, (80, None, 20)),
    (99, {"validation", "test"}, (99, None, None)),
]


@pytest.mark.parametrize("how", ["shuffled", "positional"])
@pytest.mark.parametrize(("rows", "given", "sizes"), SIZES)
def test_every_row_lands_in_exactly_one_split_of_the_right_size(rows, given, sizes, how):
    parts = split_rows(rows, given, how, seed=1)
    assert tuple(len(parts[name]) if name in parts else None for name in ("train", "validation", "test")) == sizes
    together = np.concatenate(list(parts.values()))
    assert sorted(together.tolist()) == list(range(rows))
    if how == "positional":
        assert together.tolist() == list(range(rows))
    for part in parts.values():
        assert (np.diff(part) > 0).all()


def test_the_seed_decides_a_shuffled_split():
    def held_out(seed):
        return split_rows(1000, set(), "shuffled", seed)["test"].tolist()

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)
    assert held_out(1) != list(range(900, 1000))


def test_a_sorted_file_gives_every_kind_of_row_to_every_split(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{number // 100} {number}"} for number in range(1000)])
    for how, kinds in (("shuffled", 10), ("positional", 1)):
        test = check_data("text_generation", file, split=how, scratch=tmp_path).rows["test"]
        assert len({text[0] for text in rows_of(test)}) == kinds


def test_given_files_are_taken_whole(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(50))
    validation = write_jsonl(tmp_path / "validation.jsonl", texts(7, 100))
    test = write_jsonl(tmp_path / "test.jsonl", texts(5, 200))
    checked = check_data("text_generation", train, validation, test, scratch=tmp_path)
    assert checked.counts == {"train": 50, "validation": 7, "test": 5}
    assert rows_of(checked.rows["test"]) == [row["text"] for row in texts(5, 200)]
    assert checked.rows["test"].where(4) == f"{test}:5 (record 5)"
    assert (checked.warnings, checked.repairs) == ([], [])


def test_rows_need_not_be_kept(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", chat_rows(50))
    checked = check_data("chat_completion", file, scratch=None)
    assert checked.counts == {"train": 40, "validation": 5, "test": 5}
    assert checked.rows["train"].stored is None
    assert list(tmp_path.iterdir()) == [file]


def test_rows_that_differ_only_in_case_and_space_are_worth_a_warning(tmp_path):  # 130
    rows = texts(50)
    rows[20] = {"text": "  TEXT number\n7"}
    rows[30] = rows[7]
    warnings = {w["code"]: w for w in check_data("text_generation", write_jsonl(tmp_path / "a.jsonl", rows)).warnings}
    assert warnings["DATA-W0703"]["rows"] == [21]
    assert warnings["DATA-W0701"]["rows"] == [31]
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "Text Number 3"}, {"text": "something else"}])
    [near] = check_data("text_generation", write_jsonl(tmp_path / "a.jsonl", texts(50)), other).warnings
    assert (near["count"], near["rows"]) == (1, [1])
    assert near["what"] == f"{other}: rows that differ from an earlier one only in case and whitespace"


def test_a_large_file_gives_the_same_in_one_stretch_and_in_many(tmp_path, monkeypatch):
    rows = chat_rows(3000)
    rows[1777]["messages"][0]["role"] = "bot"
    rows[2500] = {"messages": []}
    lines = [json.dumps(row) for row in rows]
    lines[2222:2222] = ["", '{"messages": [']
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(lines))

    def refused():
        with pytest.raises(UserError) as error:
            check_data("chat_completion", file)
        return [str(problem) for problem in error.value.problems]

    at_once = refused()
    assert len(at_once) == 3
    assert any("a.jsonl:2224 (record 2223)" in problem for problem in at_once)
    assert any("a.jsonl:2503 (record 2502) messages" in problem for problem in at_once)
    monkeypatch.setattr("steps.prepare_data.check.parts.STRETCH", 20_000)
    assert refused() == at_once


def test_rows_come_back_from_disk_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.prepare_data.check.parts.STRETCH", 5_000)
    file = write_jsonl(tmp_path / "a.jsonl", texts(1000))
    train = check_data("text_generation", file, split="positional", scratch=tmp_path).rows["train"]
    order = np.array([700, 3, 3, 500, 799, 0])
    assert [row["text"] for row in train.take(order).table().to_pylist()] == [f"text number {n}" for n in order]
    assert train.take(order).records.tolist() == (order + 1).tolist()
    assert train.take(order).where(3) == f"{file}:501 (record 501)"


def test_too_few_training_rows_are_refused_with_the_number_after_the_split(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", texts(12))
    check_data("text_generation", file, min_train_rows=10)
    with pytest.raises(UserError, match=r"found 10 training rows of 12 .*at least 11"):
        check_data("text_generation", file, min_train_rows=11)
    file = write_jsonl(tmp_path / "a.jsonl", texts(2))
    with pytest.raises(UserError, match="one row for every split"):
        check_data("text_generation", file, min_train_rows=1)


def test_repeated_training_rows_are_counted(tmp_path):  # 131
    rows = texts(96)
    file = write_jsonl(tmp_path / "a.jsonl", [*rows, rows[3], rows[3], rows[5], {"text": "other"}])
    other = write_jsonl(tmp_path / "b.jsonl", texts(5, 500))
    [warning] = check_data("text_generation", file, other, write_jsonl(tmp_path / "c.jsonl", texts(5, 600))).warnings
    assert (warning["code"], warning["count"], warning["rows"]) == ("DATA-W0701", 3, [97, 98, 99])
    assert "3.0 %" in warning["what"]


def test_conversations_that_differ_in_their_tools_only_are_no_repeats(tmp_path):
    [row] = chat_rows(1)

    def with_tool(name):
        return {**row, "tools": [{"type": "function", "function": {"name": name, "parameters": {}}}]}

    file = write_jsonl(tmp_path / "a.jsonl", [*chat_rows(50)[1:], with_tool("add"), with_tool("multiply")])
    assert check_data("chat_completion", file).warnings == []
    write_jsonl(file, [*chat_rows(50)[1:], with_tool("add"), with_tool("add")])
    assert "DATA-W0701" in {warning["code"] for warning in check_data("chat_completion", file).warnings}


def test_held_out_rows_that_are_trained_on_are_refused_above_one_percent(tmp_path):  # 129
    train = write_jsonl(tmp_path / "train.jsonl", texts(300))
    validation = write_jsonl(tmp_path / "validation.jsonl", texts(9, 900))
    test = write_jsonl(tmp_path / "test.jsonl", [*texts(200, 1000), *texts(2, 41)])
    [warning] = check_data("text_generation", train, validation, test).warnings
    assert (warning["code"], warning["count"], warning["rows"]) == ("DATA-W0702", 2, [201, 202])
    assert "201 = 42, 202 = 43" in warning["what"]
    test = write_jsonl(tmp_path / "test.jsonl", [*texts(200, 1000), *texts(3, 41)])
    with pytest.raises(UserError) as error:
        check_data("text_generation", train, validation, test)
    [problem] = error.value.problems
    assert (problem.code, problem.count, problem.rows) == ("DATA-E0703", 3, (201, 202, 203))
    assert problem.where == f"{test}:201 (record 201)"


def sides(numbers, prints):
    return {name: set(prints[part].tolist()) for name, part in numbers.items()}


GROUPS = {
    "12 % repeats": lambda n: np.where(np.arange(n) % 8 == 7, np.arange(n) // 3, np.arange(n)),
    "all in pairs": lambda n: np.arange(n) // 2,
    "pairs far apart": lambda n: np.arange(n) % (n // 2),
    "one row is most of them": lambda n: np.where(np.arange(n) % 10 < 7, -1, np.arange(n)),
    "groups of seven": lambda n: np.arange(n) % (-(-n // 7)),
}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("how", ["shuffled", "positional"])
@pytest.mark.parametrize("given", [set(), {"test"}, {"validation"}], ids=str)
def test_equal_rows_are_in_one_split_with_any_seed_and_ratio(groups, how, given):
    for rows, seed in [(60, 0), (61, 1), (97, 2), (400, 3), (1007, 4), (1007, 5)]:
        prints = GROUPS[groups](rows)
        strata = prints % 3 if seed % 2 else None
        parts = split_rows(rows, given, how, seed, strata, prints)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(rows))
        held = sides(parts, prints)
        assert len(set.union(*held.values())) == sum(map(len, held.values()))
        largest = np.unique(prints, return_counts=True)[1]
        largest = largest[largest < rows / 2].max()
        for name, size in split_sizes(rows, given).items():
            if name != "train":  # a split is short by less than a group, and empty only if there is none for it
                assert 0 < len(parts[name]) <= max(size, largest)
                assert len(parts[name]) > size - largest
        again = split_rows(rows, given, how, seed, strata, -prints)  # other hashes, the same groups
        assert {name: part.tolist() for name, part in again.items()} == {n: p.tolist() for n, p in parts.items()}


def test_rows_that_all_differ_are_split_as_if_nobody_had_looked():
    for how in ("shuffled", "positional"):
        plain = split_rows(500, set(), how, 7)
        looked = split_rows(500, set(), how, 7, None, np.random.default_rng(1).permutation(500))
        assert {name: part.tolist() for name, part in plain.items()} == {n: p.tolist() for n, p in looked.items()}


def test_splits_of_a_set_with_a_few_repeats_have_the_planned_sizes():
    prints = GROUPS["12 % repeats"](1000)
    parts = split_rows(1000, set(), "shuffled", 3, None, prints)
    assert {name: len(part) for name, part in parts.items()} == split_sizes(1000, set())


def test_equal_rows_of_several_files_and_formats_stay_in_one_split(tmp_path):
    rows = [{"text": f"text {number}", "id": number} for number in range(90)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps([{"text": row["text"]} for row in rows[30:60]]))
    (tmp_path / "c.csv").write_text("text\n" + "".join(f"{row['text']}\n" for row in rows[50:]))
    for seed in range(4):
        checked = check_data("text_generation", tmp_path, seed=seed, scratch=tmp_path)
        train, *held = [rows_of(checked.rows[name]) for name in ("train", "validation", "test")]
        assert sum(checked.counts.values()) == 160
        assert all(not set(train) & set(part) for part in held)
        assert not set(held[0]) & set(held[1])
        assert min(map(len, held)) >= 14
        assert "DATA-W0702" not in {warning["code"] for warning in checked.warnings}
        [note] = [note["what"] for note in checked.repairs if note["code"] == "DATA-F2401"]
        assert note.endswith("equal rows stay in one split")


@pytest.mark.parametrize("dedup", [False, True])
def test_rows_that_are_all_equal_are_refused_with_both_facts(tmp_path, dedup):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "always the same"}] * 100)
    with pytest.raises(UserError) as error:
        check_data("text_generation", file, dedup=dedup)
    [problem] = error.value.problems
    assert problem.code == "DATA-E0701"
    assert problem.found == (
        "0 training rows of 100 after dropping 99 that repeat an earlier row and holding out validation and test"
        if dedup else
        "100 training rows of 100 after holding out validation and test, but only 1 different row: equal rows stay in "
        "one split, none is left for validation and test"
    )  # fmt: skip
    told = " ".join(error.value.__notes__)
    assert ("DATA-W0701" in told) != dedup


def test_one_single_row_is_refused(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", texts(1))
    with pytest.raises(UserError, match="found 0 training rows of 1 after holding out validation and test"):
        check_data("text_generation", file, min_train_rows=1)
    other = write_jsonl(tmp_path / "b.jsonl", texts(3, 50))
    with pytest.raises(UserError, match="found 1 training row; expected at least 10"):
        check_data("text_generation", file, other, other)


def test_bad_rows_and_a_split_that_cannot_be_drawn_are_told_together(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "good"}, {"text": 3}])
    held = write_jsonl(tmp_path / "b.jsonl", [{"text": "good"}, {"text": ""}])
    with pytest.raises(UserError) as error:
        check_data("text_generation", file, held, min_train_rows=1)
    assert [problem.code for problem in error.value.problems] == ["DATA-E0602", "DATA-E0603", "DATA-E0703"]
    with pytest.raises(UserError) as error:
        check_data("text_generation", file, held)
    assert [problem.code for problem in error.value.problems][-1] == "DATA-E0701"
    with pytest.raises(UserError) as error:
        check_data("text_generation", file)
    assert [problem.code for problem in error.value.problems] == ["DATA-E0602", "DATA-E0701"]
    assert "0 training rows of 2 after holding out validation and test" in str(error.value)


def test_bad_rows_that_would_be_enough_if_corrected_are_not_called_too_few(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [*texts(4), *[{"text": number} for number in range(20)]])
    with pytest.raises(UserError) as error:
        check_data("text_generation", file)
    assert [problem.code for problem in error.value.problems] == ["DATA-E0602"]


def test_equal_conversations_are_equal_whatever_the_order_of_their_keys(tmp_path):
    rows = chat_rows(40)
    other = [{"messages": [dict(reversed(m.items())) for m in row["messages"]]} for row in rows[:1]]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows + other))
    warnings = check_data("chat_completion", file).warnings
    assert "DATA-W0701" in {warning["code"] for warning in warnings}


def test_checking_needs_neither_torch_nor_transformers(tmp_path):
    import subprocess
    import sys

    file = write_jsonl(tmp_path / "a.jsonl", texts(50))
    code = (
        "import sys; from steps.params.data import DataSource;"
        "from steps.prepare_data.check.checking import check_data;"
        f"check_data('text_generation', DataSource(train_file_path={str(file)!r}));"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_drawn_split_of_labelled_rows_shares_every_label_and_keeps_rare_ones_for_training():
    draw = np.random.default_rng(3)
    strata = draw.choice([1, 2, 3], size=2000, p=[0.9, 0.08, 0.02]).astype(np.int64)
    strata[[5, 1200]] = (77, 78)
    parts = split_rows(2000, set(), "shuffled", 1, strata)
    assert {name: len(part) for name, part in parts.items()} == {"train": 1600, "validation": 200, "test": 200}
    for label in (1, 2, 3):
        share = (strata == label).mean()
        for part in parts.values():
            assert abs((strata[part] == label).mean() - share) <= 1.5 / len(part)
    assert {5, 1200} <= set(parts["train"].tolist())
    assert parts["test"].tolist() != split_rows(2000, set(), "shuffled", 2, strata)["test"].tolist()
    assert split_rows(2000, set(), "positional", 1, strata)["test"].tolist() == list(range(1800, 2000))
