"""The patterns of secrets are defined once; each use keeps its strictness: parameters, rows, messages, stored files."""

import random
import re

import pytest

from steps.params.secrets import SECRETS, secret_in, without_secrets
from steps.prepare_data.check.secret_scan import lines_with_secrets
from steps.redaction import masked
from steps.tasks import as_found

LETTERS = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"
WORDS = "eyJ" + LETTERS[:20] + "." + LETTERS[:20]
CUT, KEPT = True, False
# Text → the kind that a parameter is refused for, whether a row that holds it is counted, whether it is cut.
TABLE = {
    "hf_" + LETTERS[:34]: ("a Hugging Face token", True, CUT),
    "hf_" + LETTERS[:30]: ("a Hugging Face token", True, CUT),
    "hf_" + LETTERS[:29]: ("", False, CUT),
    "hf_" + LETTERS[:8]: ("", False, CUT),
    "hf_" + LETTERS[:7]: ("", False, KEPT),
    "hf_hub_download": ("", False, KEPT),
    "sk-" + LETTERS: ("an API key", True, CUT),
    "sk-proj-" + LETTERS: ("an API key", True, CUT),
    "sk-ant-api03-" + LETTERS: ("an API key", True, CUT),
    "sk-" + LETTERS[:24]: ("", True, CUT),  # a folder may be called so
    "sk-learn-tutorial-with-20-newsgroups-of-then": ("", True, CUT),
    "sk-" + LETTERS[:16]: ("", False, CUT),
    "sk-" + LETTERS[:15]: ("", False, KEPT),
    "AKIA" + "Q7" * 8: ("an AWS access key", True, CUT),
    "ASIA" + "Q7" * 8: ("an AWS access key", True, CUT),
    "AKIA" + "Q7" * 9: ("", False, CUT),
    "ASIA" + "Q7" * 6: ("", False, CUT),
    "AKIA" + "Q7" * 5: ("", False, KEPT),
    "ghp_" + LETTERS[:36]: ("a GitHub token", True, CUT),
    "ghr_" + LETTERS[:35]: ("", False, CUT),
    "gho_" + LETTERS[:15]: ("", False, CUT),
    "gho_" + LETTERS[:7]: ("", False, KEPT),
    "ghx_" + LETTERS[:36]: ("", False, KEPT),
    "github_pat_" + LETTERS: ("a GitHub token", True, CUT),
    "github_pat_" + LETTERS[:20]: ("", False, CUT),
    "glpat-" + LETTERS[:20]: ("a GitLab token", True, CUT),
    "glpat-" + LETTERS[:16]: ("", False, CUT),
    "glpat-" + LETTERS[:10]: ("", False, CUT),
    "glpat-" + LETTERS[:7]: ("", False, KEPT),
    "xoxb-" + LETTERS[:30]: ("a Slack token", True, CUT),
    "xoxz-" + LETTERS[:30]: ("", False, KEPT),
    "AIza" + LETTERS[:35]: ("a Google API key", True, CUT),
    "AIza" + LETTERS[:34]: ("", False, CUT),
    "AIzawa": ("", False, KEPT),
    "-----BEGIN RSA PRIVATE KEY-----": ("a private key", True, CUT),
    "-----BEGIN PRIVATE KEY": ("", False, CUT),
    "-----BEGIN PUBLIC KEY-----": ("", False, KEPT),
    WORDS + "." + LETTERS[:20]: ("a JSON web token", False, CUT),
    WORDS: ("", False, CUT),
    "eyJ" + LETTERS[:20]: ("", False, KEPT),
    "https://me:pass@host/x": ("a URI with a password", False, CUT),
    "https://me@host/x": ("", False, CUT),
    "https://host/x:y": ("", False, KEPT),
    "me@example.com": ("", False, CUT),
    "me at example.com": ("", False, KEPT),
    "a task-oriented-dialogue-system-for-everybody-else": ("", False, CUT),  # rather one word too many
    "disk-full-1": ("", False, KEPT),
}


@pytest.mark.parametrize("text", TABLE)
@pytest.mark.parametrize("around", ["{}", "a {} b", "key={}", "({})"])
def test_a_parameter_with_a_whole_secret_is_refused(text, around):
    assert secret_in(around.format(text)) == TABLE[text][0]
    assert secret_in({"name": [around.format(text)]}) == TABLE[text][0]


@pytest.mark.parametrize("text", TABLE)
@pytest.mark.parametrize("around", ["{}", "a {} b", "key={}", "({})"])
def test_a_row_with_a_whole_secret_is_counted(text, around):
    assert list(lines_with_secrets(f"no\n{around.format(text)}\nno".encode())) == [1] * TABLE[text][1]


@pytest.mark.parametrize("text", TABLE)
@pytest.mark.parametrize("around", ["{}", "a {} b", "key={}", "({})"])
def test_secrets_and_pieces_of_them_reach_neither_messages_nor_what_is_stored(text, around):
    given = around.format(text)
    assert (text not in as_found(given)) is TABLE[text][2]
    assert (text not in str(masked({"a": [given]}))) is TABLE[text][2]
    assert without_secrets(without_secrets(given)) == without_secrets(given)


def test_the_words_around_a_secret_stay():
    assert without_secrets(f"use hf_{LETTERS} for s3://me:pass@bucket, or ask a@b.org") == (
        "use … for s3://***@bucket, or ask …"
    )


# The expressions that each use had of its own before they stood in one table: none may find less than they did.
REFUSED_BEFORE = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@"
)
CUT_BEFORE = re.compile(
    r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w.-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|[\w.+-]+@[\w-]+\.[\w.-]+"
)
COUNTED_BEFORE = re.compile(
    rb"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4}))(?:hf_[A-Za-z0-9]{30,}"
    rb"|sk-(?:[a-z]+-){0,3}(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    rb"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}"
    rb"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
)


def made_up(number: int) -> str:
    """A text that is, nearly is, or holds a secret: the table's, cut, joined, and with characters exchanged."""
    draw = random.Random(number)
    text = draw.choice(["", " ", ","]).join(draw.choice(list(TABLE)) for _ in range(draw.randint(1, 3)))
    text = text[draw.choice([0, 0, 1, 2]) : draw.choice([len(text), draw.randint(3, len(text))])]
    for _ in range(draw.choice([0, 0, 1, 2])):
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice("A_-z9 .:/@é\\n\n") + text[place + draw.randrange(2) :]
    return draw.choice(["", "x", " ", "\\n", "-", "é"]) + text + draw.choice(["", "x", " ", '"', "_"])


def test_no_use_finds_less_than_its_own_expression_did():
    texts = [made_up(number) for number in range(20_000)]
    refused = [text for text in texts if REFUSED_BEFORE.search(text)]
    counted = [text for text in texts if COUNTED_BEFORE.search(text.encode())]
    assert min(len(refused), len(counted)) > 1500
    assert [text for text in refused if not secret_in(text)] == []
    for text in texts:
        lines = text.encode().split(b"\n")
        expected = [number for number, line in enumerate(lines) if COUNTED_BEFORE.search(line)]
        assert list(lines_with_secrets(text.encode())) == expected
        for piece in CUT_BEFORE.finditer(text):
            cut = without_secrets(text)
            assert piece[0] not in cut or piece[0] in cut.replace("***@", ""), text


def test_every_whole_secret_is_a_piece_and_holds_a_sign():
    for one in SECRETS:
        for text, (kind, counted, cut) in TABLE.items():
            if one.whole and re.search(one.whole, text):
                assert kind or counted
                assert cut
                assert not one.part or re.search(one.part, text), text
                assert not one.signs or any(sign in text for sign in one.signs), text


def test_signs_are_as_the_scan_wants_them():
    signs = [sign for one in SECRETS for sign in one.signs]
    assert all(len(sign) == 3 and sign.isascii() for sign in signs)
    assert len(signs) == len(set(signs))
