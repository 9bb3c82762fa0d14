"""Every text file that a user names: read in any marked encoding, or refused in words with its parameter."""

import json
from pathlib import Path

import pytest

from steps.adapters.training_hint import trained_whole
from steps.errors import UserError
from steps.launch.deepspeed_config import read_file
from steps.params.text_file import decoded, read_json
from steps.prepare_data.write.templates import read_template
from steps.sources import storage
from steps.sources.user_code import check_function

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
CODE = "def same(row):\n    return row\n"
# What a user names → a good content, and how it is read.
KINDS = {
    "deepspeed": ('{"bf16": {"enabled": "auto"}}', lambda path: read_file("deepspeed", path)),
    "chat_template": (TEMPLATE, read_template),
    "training_config": ("lora_r: 8\n", lambda path: trained_whole(path, storage.read_bytes("training_config", path))),
    "processing_function": (CODE, lambda path: check_function("processing_function", f"{path}:same")),
}
SUFFIX = {"processing_function": ".py"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_marked_encoding_is_read(tmp_path, kind, encoding):
    if kind == "processing_function" and encoding in ("utf-16", "utf-32"):
        pytest.skip("Python itself reads no such file")
    text, read = KINDS[kind]
    file = tmp_path / f"it's a file{SUFFIX.get(kind, '.txt')}"
    file.write_bytes(text.encode(encoding))
    read(str(file))


BAD = {
    "latin-1": 'x = "caf\xe9"\n'.encode("latin-1"),
    "utf-16 without a mark": "# text\n".encode("utf-16-le"),
    "binary": b"\x89PNG\r\n\x1a\n\x00\x00",
    "zero byte": b"lora_r: 8\x00\n",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused_in_words(tmp_path, kind, name):
    file = tmp_path / f"file{SUFFIX.get(kind, '.txt')}"
    file.write_bytes(BAD[name])
    with pytest.raises(UserError) as caught:
        KINDS[kind][1](str(file))
    (problem,) = caught.value.problems
    assert str(file) in problem.where
    assert problem.fix


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_names_the_parameter(tmp_path, kind):
    suffix = SUFFIX.get(kind, ".txt")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"dangling{suffix}").symlink_to(tmp_path / "gone")
    (tmp_path / f"file{suffix}").write_text("x")
    for path in (f"nowhere{suffix}", f"folder{suffix}", f"dangling{suffix}", f"file{suffix}/x{suffix}"):
        with pytest.raises(UserError) as caught:
            KINDS[kind][1](str(tmp_path / path))
        assert caught.value.problems[0].where == kind


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"a": 1, "a": 2}', "the key 'a' is given twice"), ('{"a": {"b": 1, "b": 1}}', "the key 'b' is given twice"),
     ("[" * 100_000, "nested too deeply"), ("{", "Expecting")],
)  # fmt: skip
def test_json_is_read_with_each_key_once(text, words):
    with pytest.raises(ValueError, match=words):
        read_json(text)


def test_the_line_of_a_wrong_byte_is_told():
    with pytest.raises(UserError, match=r"c\.txt:3: found byte 0xE9, which is not UTF-8"):
        decoded("c.txt", b"a\nb\n\xe9\n")


@pytest.mark.parametrize(
    "words", [["--settings", "{"], ["--settings", "[1]"], ["--settings", '{"a": 1, "a": 2}'], ["--settings", "null"]]
)
def test_settings_of_a_step_alone_are_a_json_object(tmp_path, words, capsys):
    from steps.__main__ import main

    with pytest.raises(SystemExit) as end:
        main(["import-model", "--model", str(tmp_path / "m"), "--tokenizer", str(tmp_path / "t"), *words])
    assert end.value.code == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["where"] == "--settings"
    assert not list(Path(tmp_path).iterdir())


def test_settings_that_are_not_given_to_a_step_are_told_by_their_flags():
    from steps.__main__ import _settings
    from steps.params.settings import FinetuneSettings

    with pytest.raises(UserError) as error:
        _settings(FinetuneSettings, {"settings": '{"training": {"max_steps": "few"}}'})
    told = "\n".join(map(str, error.value.problems))
    assert "PARAM-E0104 --pipeline: found nothing; expected a value. Fix: give --pipeline" in told
    assert "PARAM-E0104 --max-steps: found 'few'" in told
