"""Rows with strings that look like secrets are found, other rows are not."""

import json

import pytest
from checking import check_data

from steps.errors import UserError
from steps.prepare_data.check.secret_scan import lines_with_secrets

LETTERS = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"
SECRETS = [
    "hf_" + LETTERS[:34],
    "sk-" + LETTERS,
    "sk-proj-" + LETTERS,
    "sk-ant-api03-" + LETTERS,
    "AKIA" + "Q7" * 8,
    "ASIA" + "Q7" * 8,
    *(f"gh{kind}_{LETTERS[:36]}" for kind in "pousr"),
    "github_pat_" + LETTERS + "_more",
    "glpat-" + LETTERS[:20],
    "xoxb-" + LETTERS[:30],
    "AIza" + LETTERS[:35],
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----",
]
INNOCENT = [
    "hf_hub_download(repo)",
    "a task-oriented-dialogue-system-for-everybody-else",
    "sk-learn is spelled scikit-learn",
    "sk-something-long-that-is-only-words-and-dashes",
    "AKIAROUND THE WORLD",
    "ghp_short",
    "the PRIVATE KEY----- of nobody",
    "AIza",
    "xoxo",
    "disk-" + LETTERS,
]


def lines_found(*rows: str | bytes) -> list[int]:
    return list(lines_with_secrets(b"\n".join(row if isinstance(row, bytes) else row.encode() for row in rows)))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={}", 'export TOKEN="{}"', "({}).", "é{}é", "\t{}"])
def test_a_key_is_found_wherever_it_stands(secret, around):
    row = around.format(secret)
    assert lines_found("no", row, "no", json.dumps({"text": f"line\n{row}\nline"})) == [1, 3]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_a_little_like_a_key_is_none(text):
    assert lines_found(text) == []


def test_every_line_with_a_key_counts_once():
    rows = [f"{number} {SECRETS[number % len(SECRETS)] if number % 7 == 0 else 'none'}" for number in range(500)]
    rows[14] += " " + SECRETS[0]
    assert lines_found(*rows) == lines_found(*rows, "") == list(range(0, 500, 7))
    assert lines_found() == []


@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_is_found_in_any_line_of_a_block(secret):
    lines = ["plain"] * 5 + [f"a {secret}"] + ["plain hf_ sk- AKIA"] * 5
    assert list(lines_with_secrets("\n".join(lines).encode())) == [5]
    assert list(lines_with_secrets(secret.encode())) == [0]


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_rows_with_keys_are_counted_and_the_key_is_never_shown(tmp_path, name):  # 134
    rows = [{"text": f"row {number}"} for number in range(40)]
    rows[17]["text"] += f" {SECRETS[0]}"
    rows[30]["text"] = ""  # the next row's number must still be right
    rows[31]["text"] = f"{SECRETS[4]} and {SECRETS[1]}"
    file = tmp_path / name
    blank = "\n\n"
    if name.endswith("csv"):
        file.write_text("id,text\n" + "\n".join("1," + (row["text"] or '" "') for row in rows))
    else:
        file.write_text(blank.join(json.dumps(row) for row in rows))
    with pytest.raises(UserError) as error:  # of the empty text
        check_data("text_generation", file)
    assert [problem.code for problem in error.value.problems] == ["DATA-E0603"]
    rows[30]["text"] = "not empty"
    file.write_text(file.read_text().replace('" "', "full").replace('""', '"full"'))
    [warning] = check_data("text_generation", file).warnings
    assert (warning["code"], warning["count"], warning["rows"]) == ("DATA-W0104", 2, [18, 32])
    assert LETTERS[:10] not in str(warning)
