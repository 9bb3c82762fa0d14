"""Rows that hold strings like keys are found, other rows are not."""

import json
import time

import pytest

from steps.prepare_data.secret_scan import lines_with_secrets, rows_with_secrets

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


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={}", 'export TOKEN="{}"', "({}).", "é{}é", "line\n{}\nline", "\t{}"])
def test_a_key_is_found_wherever_it_stands(secret, around):
    row = around.format(secret)
    assert list(rows_with_secrets(["no", row, "no", row.encode(), json.dumps({"text": row}).encode()])) == [1, 3, 4]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_a_little_like_a_key_is_none(text):
    assert list(rows_with_secrets([text])) == []
    assert list(lines_with_secrets(text.encode())) == []


def test_lines_of_a_block_and_its_rows_agree():
    rows = [f"{number} {SECRETS[number % len(SECRETS)] if number % 7 == 0 else 'none'}" for number in range(500)]
    rows[14] += " " + SECRETS[0]
    block = "\n".join(rows).encode()
    assert list(lines_with_secrets(block)) == list(rows_with_secrets(rows)) == list(range(0, 500, 7))
    assert list(lines_with_secrets(block + b"\n")) == list(lines_with_secrets(block))
    assert list(lines_with_secrets(b"")) == []


@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_is_found_in_any_line_of_a_block(secret):
    lines = ["plain"] * 5 + [f"a {secret}"] + ["plain hf_ sk- AKIA"] * 5
    assert list(lines_with_secrets("\n".join(lines).encode())) == [5]
    assert list(lines_with_secrets(secret.encode())) == [0]


def test_texts_without_keys_cost_next_to_nothing():
    block = (
        "What is the task? A risk-free disk-based desk-top. " * 20_000
    ).encode()  # 1 MB that holds sk- 60,000 times
    start = time.process_time()
    assert list(lines_with_secrets(block)) == []
    assert time.process_time() - start < 0.5
