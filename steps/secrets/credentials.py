"""Credentials that are recognised by what stands before them: the name of a field, a header, a flag, or a URI.

A password has no form of its own, so only its surroundings tell: `password=…`, `"api_key": "…"`, `Bearer …`,
`--hf-token …`, `?X-Amz-Signature=…`, `://user:…@host`. Every function yields parts of a text. None reads a character
more than a fixed number of times, whatever the text is: names are found first, by fixed strings, and then judged.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

HIDDEN, NOBODY = "…", "***"
Part = tuple[int, int, str]
"""Where a part to hide begins and ends, and what stands there instead."""

NAME = 40  # characters that are read before a name
SAMPLE = 200  # characters of a value that are judged

# Names of fields, in small letters, by their last word → what has to stand before that word.
_BEFORE = {
    "password": "", "passwd": "", "passphrase": "", "passcode": "", "passwort": "",
    "pwd": r"(?:^|[;&?,\s{\"'(])",
    "secret": r"(?:client|app|consumer|api|shared|oauth|webhook|jwt|signing)[_.-]?",
    # A word before it is needed: pad_token and eos_token are no secrets.
    "token": r"(?:[?&]|(?:hf|hugging_?face|hub|github|gh|gitlab|slack|auth|access|api|bearer|id|refresh|session"
             r"|security|private|tracking|mlflow|vault|bot|oauth|deploy|job|npm|pypi|wandb|personal|service|kube|databricks"
             r"|pipelines|identity|kfp|sa)[_.-]?)",
    "key": r"(?:api|access|account|private|secret|signing|encryption|sharedaccess|subscription|storage|master"
           r"|hmac)[_.-]?",
    "signature": r"(?:x-(?:amz|goog)-|sharedaccess|[?&;])",
    "sig": r"[?&;]",
    "credential": r"x-(?:amz|goog)-",
    "accesskeyid": r"[?&]", "googleaccessid": r"[?&]",
    "pass": "(?!)", "auth": "(?!)",
}  # fmt: skip
_NAMES = {word: re.compile(rf"{before}$") for word, before in _BEFORE.items()}
# With a value that looks like one: plain, or at the end of a VARIABLE.
_ALSO = ("secret", "token", "key", "pwd", "pass", "auth")
_NO_SECRET = re.compile(r"(?:pad|eos|bos|unk|mask|sep|cls|image|video|audio|stop|start|end|special|prompt|label)_$")
_SEPARATOR = re.compile(
    r"""(?:_?\d{1,2})?(?P<close>["'`]?)[ \t\xa0]{0,20}(?:(?P<sign>[!=:]={1,2}|[=-]>|[=:：＝])"""
    r"""(?P<space>[ \t\xa0]{0,20}(?:\n[ \t|]{1,40})?)(?:!{1,2}[a-z]{1,10}[ \t]{1,4})?"""
    r"""|,[ \t\n]{0,40}["']value["'][ \t]{0,4}:[ \t]{0,4}|value=(?=["'])|\n[ \t]{1,40}value:[ \t]{1,20}"""
    r"""|(?P<list>,[ \t]{0,4}(?=["']))|(?P<xml>>(?=[^<\s]))"""
    r"""|(?P<weak>[|;,\t][ \t]{0,4}|(?:(?<=[ \t])|[ \t])(?:is|was)(?:[ \t]|:[ \t]))|(?P<gap>[ \t]{1,4}(?![ \t]))"""
    r"""|</t[dh]>\s{0,40}<td[^>]{0,80}>)"""
)
# What is certainly no password, as in `password=None`, `$VARIABLE` and `<your key>`, and what is hidden already.
_NOTHING = re.compile(
    r"""(?i)["']?(?:(?:none|null|true|false|str|bytes|int|bool)(?=[\s"',;&)\]}\\|]|$)|…|\*\*\*|\$[{(]|\$[a-z_]{3,}(?!\w)"""
    r"""|[{\[]|<[^>\s]{1,40}>|\[[a-z]{1,20}\]|["'](?:["']|$)|$)"""
)
# What a field of a Kubernetes secret is called, or a variable.
_NAME_OF_KEY = re.compile(
    r"(?i)(?:self\.|args\.)?(?:(?:aws|s3|hf|hub|mlflow|tracking|client|access|secret|account|session|password|passwd|token"
    r"|key|user|name|id|api|store|azure|storage|auth)[_.-]?){1,6}"
)
_LIST = re.compile(r"""(?:[\[(]\s{0,40}(?=["']))?""")
_QUOTED = re.compile(r"""(?i:[bruf]{0,2})(?P<mark>["'`])(?P<inside>(?:(?!(?P=mark))[^\n\\]|\\.)*+)(?P=mark)""")
_CUT = re.compile(r"""(?i:[bruf]{0,2})["'`](?P<inside>[^"'`\n]++)""")
_PLAIN = re.compile(r"""(?:[^\s"'&;,<>\\]|,(?!\s)|\\(?![nrt"']))++""")
_SHORT = re.compile(rf"""["']?(?P<inside>(?:[^\s"'&;,<>]|,(?!\s)){{1,{SAMPLE}}})""")
_BLOCK = re.compile(r"[|>][+-]?[ \t]*\n(?P<indent>[ \t]+)")
_PROSE = re.compile(r"[a-z]{1,12}(?=[.,;:!?]?(?:[ \t]+\S|\)))")
_TO_LINE_END = re.compile(r"""[^\r\n"'…]*+""")
_SCHEMES = re.compile(r"(?i)(?:basic|bearer|digest|token|negotiate|sharedkey|apikey|aws4-hmac-sha256|ntlm)\b")
_RUN = re.compile(r"[\w.~+/=-]*+")
_FLAG = re.compile(r"--[a-z-]*$")


def names_secret(name: str) -> bool:
    """Return whether the name of a field says that its value is a secret: password, api_key, MLFLOW_TRACKING_TOKEN."""
    small = small_letters(name)
    return any(
        small.endswith(word) and (_qualified(small, len(small) - len(word), word) or _variable(name, small, word))
        for word in _BEFORE
    )


def named(text: str, small: str) -> Iterator[Part]:
    """Yield the values of fields and flags whose names say that they are secrets; `small` has small letters only."""
    for word in [word for word in _BEFORE if word in small]:
        end = 0
        place = small.find(word)
        while place >= 0:
            if place >= end and (part := _value(text, small, place, word)):
                yield part
                end = part[1]
            place = small.find(word, place + len(word))


def headers(text: str, small: str) -> Iterator[Part]:
    """Yield the values of headers with credentials, and what stands behind Bearer and Basic."""
    for word in [word for word in ("authorization", "cookie") if word in small]:
        end = 0
        for place in _places(small, word):
            found = _SEPARATOR.match(text, place + len(word)) if place >= end else None
            if not found or not (found["sign"] or found["list"]):
                continue
            start = found.end() + text.startswith(("'", '"'), found.end())
            end = _TO_LINE_END.match(text, start).end()  # type: ignore[union-attr]
            value = text[start : min(end, start + SAMPLE)]
            if _SCHEMES.match(value) or _looks_secret(value.split(" ")[0]) or (word == "cookie" and "=" in value):
                yield start, end, HIDDEN
    for word in [word for word in ("bearer", "basic") if word in small]:
        for place in _places(small, word):
            start = place + len(word)
            while start < place + 12 and text.startswith((" ", "\t", "+"), start):
                start += 1
            if start > place + len(word) and not text[max(place - 1, 0) : place].isalpha():
                sample = _RUN.match(text, start, start + SAMPLE)[0]  # type: ignore[index]
                if _is_basic(sample) if word == "basic" else len(sample) >= 8 and any(c.isdigit() for c in sample):
                    yield start, _RUN.match(text, start).end(), HIDDEN  # type: ignore[union-attr]


def private_keys(text: str) -> Iterator[Part]:
    """Yield private keys with their text; of one that is cut, all lines that may belong to it."""
    end = 0
    for place in _places(text, "-----BEGIN"):
        found = _KEY_BEGINS.match(text, place)
        if place < end or not found:
            continue
        following = text.find("-----BEGIN", found.end(), found.end() + LONGEST_KEY)
        closing = _KEY_ENDS.search(text, found.end(), following if following >= 0 else found.end() + LONGEST_KEY)
        end = closing.end() if closing else _KEY_LINES.match(text, found.end()).end()  # type: ignore[union-attr]
        yield place, end, HIDDEN


LONGEST_KEY = 10_000
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE[ +]KEY(?: BLOCK)?(?:-{1,5})?")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE[ +]KEY(?: BLOCK)?(?:-{1,5})?")
# Lines may have something before them, as in the traceback of a group; the last one may be cut.
_KEY_LINES = re.compile(r"(?:[\s\\|>#]*+[A-Za-z0-9/=+]{16,})*+(?:[\s\\|>#]*+[A-Za-z0-9/=+]{2,15}(?=…|\.\.\.|\Z))?+")


def user_in_uri(text: str, strict: bool) -> Iterator[Part]:
    """Yield user and password of URIs; of a user alone only if it may be a token, or if `strict`."""
    end = 0
    place = text.find("://")
    while place >= 0:
        if place >= end:
            end = _URI.match(text, place).end()  # type: ignore[union-attr]
            if text.find("@", place, end) >= 0 or text.find(HIDDEN, place, end) >= 0:
                yield from _users(text, place, end, strict)
            known = text.find("@", place, end) >= 0 or _OF_TAGS.search(text, max(0, place - 10), place)
            if not known and (cut := _CUT_USER.match(text, place)):
                yield place + 3, cut.end(), NOBODY
        place = text.find("://", max(end, place + 3))
    if "@" in text:
        yield from _without_scheme(text)


_URI = re.compile(r"""[^\s"'<>`\\]*+""")
_OF_NO_USER = re.compile(r"\b(?:hf|abfss?|wasbs?)$")  # hf://name@revision, abfss://container@account
# A password that was cut before its "@", which is no port, or a token in its place, which is no name of a host.
_CUT_USER = re.compile(
    r"""://(?:[\w.%+-]{0,80}:(?=[^\s/:]{0,80}\d)(?!\d{1,5}\b)[^\s/?\[<{"'`\\]{4,}"""
    r"""|(?=\w*[A-Z])(?=(?:[A-Za-z_]*\d){3})\w{20,}+(?![:/?-]|\.(?!\.\.)))"""
)
_OF_TAGS = re.compile(r"\b(?:docker|oci|models|runs)$")
_HOST = re.compile(r"[\w.-]{1,100}(?::\d{2,5}\b|/)|\[|(?:tcp|unix)\(")


def _users(text: str, place: int, end: int, strict: bool) -> Iterator[Part]:
    """Yield user and password of every URI in a text without spaces."""
    while place >= 0:
        start = place + 3
        place = text.find("://", start, end)
        stop = place if place >= 0 else end
        path = min((p for mark in "/?#" if (p := text.find(mark, start, stop)) >= 0), default=stop)
        at = text.rfind("@", start, path)
        if at >= 0:
            user = text[start:at]
            free = not strict and (_OF_NO_USER.search(text, max(0, start - 10), start - 3) or not _looks_secret(user))
            if user != NOBODY and (":" in user or not free):
                yield start, at, NOBODY
            continue
        colon = text.find(":", start, path)
        if colon < 0 or text.startswith("[", start) or text[colon + 1 : path].isdigit():  # a port
            continue
        at = text.rfind("@", path, stop)  # a password with characters that end the authority
        if at >= 0 and re.match(r"[\w.\[-]", text[at + 1 : at + 2]):
            yield start, at, NOBODY
        elif text[path - 1] == HIDDEN and path - 1 > colon + 1:  # cut before its "@"
            yield start, path - 1, NOBODY


def _without_scheme(text: str) -> Iterator[Part]:
    """Yield passwords in `user:password@host:5432/db` and in MySQL's `user:password@tcp(host)`."""
    for at in _places(text, "@"):
        if not (host := _HOST.match(text, at + 1)) or host[0].startswith("sha256:"):
            continue
        user, colon, password = re.split(r"[\s\"'<>,=/]", text[max(0, at - SAMPLE) : at])[-1].partition(":")
        if colon and user and user != "mailto" and len(password) >= 4 and password != NOBODY and "://" not in password:
            yield at - len(password), at, NOBODY


def _value(text: str, small: str, place: int, word: str) -> Part | None:
    """Return the part with the value of a field whose name ends with this word at this place, if it is to be hidden."""
    found = _SEPARATOR.match(text, place + len(word))
    if not found:
        return None
    start = _LIST.match(text, found.end()).end()  # type: ignore[union-attr]
    sure = _qualified(small, place, word)
    flag = _FLAG.search(small, max(0, place - NAME), place)
    if not sure and not (flag and word == "token" and flag[0] == "--"):
        if word not in _ALSO or not (_variable(text, small, word, place) or _alone(small, place, word)):
            return None
        value = _SHORT.match(text, start)
        if not value or not (_looks_secret if word in ("token", "key") else is_mixed)(value["inside"]):
            return None
    if (found["gap"] or found["weak"]) and not (
        _is_mixed_value(text, start)  # password x9Ab…
        or (flag and not (found["weak"] or found["close"] or text.startswith("-", start) or _PROSE.match(text, start)))
    ):
        return None
    if found["list"] and not (flag or (sure and _in_pair(text, place, start))):
        return None
    if found["xml"] and not re.search(r"<[\w.:-]*$", text[max(0, place - NAME) : place]):
        return None
    if _NOTHING.match(text, start) or (word == "pwd" and text[start : start + 1] in ("/", "~")):
        return None
    if found["sign"] == ":" and found["space"] and _PROSE.match(text, start):
        return None
    part = _whole_value(text, start)
    if part and _NAME_OF_KEY.fullmatch(text, part[0], part[1]):  # password=password, secret_key: AWS_SECRET_ACCESS_KEY
        return None
    if part and found["close"] == '"' and part[0] == start:  # a number in JSON
        return start, part[1], f'"{HIDDEN}"'
    return part


def _whole_value(text: str, start: int) -> Part | None:
    """Return the part that a value takes: in quotation marks, an indented block of YAML, or up to a separator."""
    if quoted := _QUOTED.match(text, start) or _CUT.match(text, start):
        return (*quoted.span("inside"), HIDDEN) if quoted["inside"] else None
    if block := _BLOCK.match(text, start):
        lines = re.compile(rf"(?:{block['indent']}[^\n\"]*\n?)++").match(text, block.start("indent"))
        end = lines.end() if lines else block.end()
        return block.end(), end - text.endswith("\n", 0, end), HIDDEN
    plain = _PLAIN.match(text, start)
    if not plain:
        return None
    end = plain.end()
    while end > start + 1 and text[end - 1] in ")]}," and not any(mark in plain[0] for mark in "([{"):
        end -= 1
    return start, end, HIDDEN


def _in_pair(text: str, place: int, start: int) -> bool:
    """Return whether a name is the first of two in brackets, `('password', 'x9')`, the second more than a word."""
    pair = re.match(r"""["']([^"'\n]{1,200})["']\)""", text[start : start + SAMPLE + 4])
    opening = re.search(r"""\(["'][\w.-]*$""", text[max(0, place - NAME) : place])
    return bool(pair and opening and not re.fullmatch("[a-z_]+", pair[1]))


def _qualified(small: str, place: int, word: str) -> bool:
    """Return whether the word of a name has before it what makes its value a secret."""
    return bool(_NAMES[word].search(small[max(0, place - 24) : place]))


def _variable(text: str, small: str, word: str, place: int = -1) -> bool:
    """Return whether a word ends the name of an environment variable: MY_TOKEN."""
    place = place if place >= 0 else len(text) - len(word)
    before = small[max(0, place - 24) : place]
    written = text[place : place + len(word)]
    return word in _ALSO and written.isupper() and before[-1:] == "_" and not _NO_SECRET.search(before)


def _alone(small: str, place: int, word: str) -> bool:
    """Return whether a name has no further word: token, secret."""
    before = small[max(0, place - 1) : place]
    if word == "key":
        return before in ("?", "&")
    if word == "auth":
        return not before.isalnum()
    return word in ("token", "secret", "pass") and not (before.isalnum() or before in ("_", "-", "."))


def is_mixed(value: str) -> bool:
    """Return whether a value has letters and digits as no word, number, path or URI has them."""
    if len(value) < 8 or "://" in value or value.startswith(("/", ".", "~", "<", "[", "{", "(")):
        return False
    digits = sum(character.isdigit() for character in value)
    return digits > 0 and any(c.isalpha() for c in value) and (digits >= 4 or value.lower() != value)


def _is_mixed_value(text: str, start: int) -> bool:
    value = _SHORT.match(text, start)
    return bool(value and is_mixed(value["inside"]))


def _looks_secret(value: str) -> bool:
    """Return whether a value is none of the names, paths and numbers that people write."""
    return len(value) >= 12 and is_mixed(value)


def _is_basic(value: str) -> bool:
    """Return whether a value is user and password in base64."""
    try:
        told = base64.b64decode(value.rstrip("=")[: len(value) // 4 * 4] + "===").decode("ascii")
    except ValueError:
        return False
    return len(value) >= 8 and ":" in told and told.isprintable()


def _places(text: str, mark: str) -> Iterator[int]:
    place = text.find(mark)
    while place >= 0:
        yield place
        place = text.find(mark, place + len(mark))


def small_letters(text: str) -> str:
    """Return a text in small letters, each at its place."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(letter if len(letter := character.lower()) == 1 else character for character in text)
