"""Configuration files: what can be read, what a word means, and what is refused, in words."""

from pathlib import Path

import pytest
import yaml

from pipelines.configuration import as_declared, read_config
from pipelines.experiment_yaml import from_experiment
from pipelines.flags import parameters_in, read_pairs
from steps.errors import UserError
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters


def read(tmp_path: Path, text: str | bytes, name: str = "c.yaml"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(file)


def parameters(tmp_path: Path, text: str, pipeline: str) -> dict:
    return as_declared(PARAMETER_MODELS[pipeline], *read(tmp_path, text))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark", "utf-32", "utf-32-be-mark"]
)
def test_every_encoding_with_a_mark_is_read(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith("-mark") else ""
    content = f"{mark}experiment_name: Öl\n".encode(encoding.removesuffix("-mark"))
    assert read(tmp_path, content)[0] == {"experiment_name": "Öl"}


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ("a: 1\nname: caf\xe9\n".encode("latin-1"), "c.yaml:2", "byte 0xE9, which is not UTF-8"),
        ("a: 1\n".encode("utf-16-le"), "c.yaml", "UTF-16 without a byte order mark"),
        ("a: 1\n".encode("utf-16-be"), "c.yaml", "UTF-16 without a byte order mark"),
        ("a: \ud800".encode("utf-16", "surrogatepass"), "c.yaml:1", "which is not UTF-16-LE"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "c.yaml", "byte 0x89, which is not UTF-8"),
        (b"a: 1\x00\n", "c.yaml", "a zero byte"),
        (b"a: \x07\n", "c.yaml", "special characters are not allowed"),
        (b"", "c.yaml", "found an empty file; expected a mapping of parameters"),
        (b"# only a comment\n", "c.yaml", "found an empty file"),
        (b"---\n...\n", "c.yaml", "found an empty file"),
        (b"- a: 1\n", "c.yaml", "found a list"),
        (b"learning_rate=1e-5\n", "c.yaml", "found one text; expected a mapping of parameters"),
        (b"3\n", "c.yaml", "found one number"),
        (b"true\n", "c.yaml", "found one value"),
        (b"a: 1\n\tb: 2\n", "c.yaml:2", "indent with blanks, not with tabs"),
        (b"a: [\n", "c.yaml:2", "valid YAML"),
        (b"a: 1\n--- \nb: 2\n", "c.yaml:2", "found another document; expected valid YAML"),
        (b"a: &x 1\nb: *x\n", "c.yaml", "alias"),
        (b"a: " + b"[" * 100_000, "c.yaml", "at most 64"),
        (b"{" * 100_000, "c.yaml", "at most 64"),
        (b'a: "\\U00110000"', "c.yaml", "an escape of no character"),
        (b'a: "\\UFFFFFFFF"', "c.yaml", "an escape of no character"),
        (b"a: [" + b"[]," * 20_001 + b"]", "c.yaml:1", "more than 20,000 names and values"),
        (b"a: " + b"9" * 5000, "c.yaml:1", "a number of 5,000 characters"),
        (b"a: !!python/object/apply:os.system [ls]\n", "c.yaml:1", "python/object"),
        (b"a: !!python/name:os.system\n", "c.yaml:1", "python/name"),
        (b"a: !!set {x}\n", "c.yaml:1", "set"),
        (b"lora_r: 4\nseed: 1\nlora_r: 8\n", "c.yaml:3", "lora_r again, after line 1"),
        (b"model_args:\n  a: 1\n  a: 2\n", "c.yaml:3", "a again, after line 2"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "c.yaml:1", "c again, after line 1"),
        (b"? [1]\n: 2\n", "c.yaml:1", "a key that is a list"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_refused_in_words(tmp_path, content, where, words):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert words in str(caught.value)
    assert where.removeprefix("c.yaml") in caught.value.problems[0].where.removeprefix(str(tmp_path))
    assert caught.value.problems[0].where.startswith(str(tmp_path / "c.yaml"))


def test_what_is_no_file_is_refused_in_words(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for name, words in {
        "folder": "a folder",
        "confg.yaml": "did you mean config.yaml?",
        "dangling.yaml": "no such file",
        "loop.yaml": "symbolic links",
        "x" * 300: "File name too long",
        "config.yaml/c.yaml": "Not a directory",
        "a\0b": "null byte",
    }.items():
        with pytest.raises(UserError, match=words):
            read_config(tmp_path / name)
    with pytest.raises(UserError, match="a device"):
        read_config(Path("/dev/null"))

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match="a file that you may not read"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("name", ["two words.yaml", "it's.yaml", 'a"b.yaml', "größe.yaml", "a,b.yaml", "-c.yaml"])
def test_a_file_may_have_any_name(tmp_path, name):
    assert read(tmp_path, "seed: 1\n", name)[0] == {"seed": 1}


@pytest.mark.parametrize(
    ("pipeline", "name", "text", "expected"),
    [
        ("translation", "target_lang", "no", "no"),
        ("translation", "source_lang", "NO", "NO"),
        ("chat_completion", "evaluation_strategy", "no", "no"),
        ("chat_completion", "determinism", "no", "no"),
        ("chat_completion", "experiment_name", "on", "on"),
        ("chat_completion", "experiment_name", "010", "010"),
        ("chat_completion", "experiment_name", "1.10", "1.10"),
        ("chat_completion", "experiment_name", "1:30", "1:30"),
        ("chat_completion", "experiment_name", "2026-01-01", "2026-01-01"),
        ("chat_completion", "experiment_name", "1_000", "1_000"),
        ("chat_completion", "huggingface_revision", "12e5", "12e5"),
        ("chat_completion", "huggingface_revision", "0123456", "0123456"),
        ("chat_completion", "gradient_checkpointing", "true", "true"),
        ("chat_completion", "precision", "16", "16"),
        ("chat_completion", "apply_lora", "yes", True),
        ("chat_completion", "apply_lora", "off", False),
        ("chat_completion", "seed", "010", 10),
        ("chat_completion", "seed", "1_000", 1000),
        ("chat_completion", "learning_rate", "1e-5", 1e-5),
        ("chat_completion", "learning_rate", "1.0e-5", 1e-5),
        ("chat_completion", "warmup_ratio", ".5", 0.5),
        ("text_classification", "labels", "[yes, no]", "yes,no"),
        ("text_classification", "labels", "[no, off, 010, 1.10, '2']", "no,off,010,1.10,2"),
        ("text_classification", "labels", "yes,no", "yes,no"),
        ("token_classification", "tags", "\n  - O\n  - B-PER", "O,B-PER"),
        ("chat_completion", "train_file_path", "['a, b.jsonl', c.jsonl]", "a, b.jsonl\nc.jsonl"),
        ("chat_completion", "evaluation_config_params", "{metrics: [loss]}", '{"metrics": ["loss"]}'),
        ("chat_completion", "training_data", "[{path: [a, b]}]", '[{"path": ["a", "b"]}]'),
        ("preference", "loss_type", "[sigmoid, bco_pair]", "sigmoid,bco_pair"),
        ("preference", "loss_weights", "[1.0, 0.5]", "1.0,0.5"),
        ("chat_completion", "model_args", "{a: no, b: 1e-2, c: 1:30, d: 2026-01-01, e: 010, no: 1}",
         {"a": False, "b": 0.01, "c": "1:30", "d": "2026-01-01", "e": 8, "no": 1}),
    ],
)  # fmt: skip
def test_a_word_in_a_file_means_what_it_means_on_the_command_line(tmp_path, pipeline, name, text, expected):
    given = parameters(tmp_path, f"{name}: {text}\n", pipeline)
    if name == "loss_weights":
        given["loss_type"] = "sigmoid,bco_pair"
    if name == "labels" or name == "tags":
        given["min_train_rows"] = 1
    assert _only(pipeline, given, name) == expected
    if not text.startswith(("[", "{", "\n")):
        assert _only(pipeline, read_pairs((f"{name}={text}",)), name) == expected


def _only(pipeline: str, given: dict, name: str):
    """Read one parameter beside those that every run needs."""
    needed = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}
    if "training_data" in given:
        needed.pop("train_file_path")
    return getattr(read_parameters(pipeline, {**needed, **given}).parameters, name)


def test_words_are_kept_in_overrides_and_in_sections(tmp_path):
    (tmp_path / "c.yaml").write_text("pipeline: translation\noverrides: {target_lang: no, apply_lora: no}\n")
    given = parameters_in(tmp_path / "c.yaml")
    assert given["overrides"] == {"target_lang": "no", "apply_lora": False}
    experiment = "method: sft\ntraining_args: {evaluation_strategy: no, bf16: no}\nrun_conf: {determinism: no}\n"
    values, _ = from_experiment(*read(tmp_path, experiment))
    assert (values["evaluation_strategy"], values["determinism"]) == ("no", "no")
    assert "precision" not in values


def test_the_same_values_as_with_the_library_where_both_agree(tmp_path):
    """Every example configuration means what PyYAML reads."""
    for file in Path(__file__).parents[2].glob("examples/*/*.yaml"):
        theirs = yaml.safe_load(file.read_text("utf-8"))
        ours, _ = read_config(file)
        assert _numbers(ours) == _numbers(theirs), file


def _numbers(value):
    """PyYAML reads 1e-5 as text."""
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@pytest.mark.parametrize(
    ("pipeline", "text", "words"),
    [
        ("chat_completion", "experiment_name: [a, b]", "experiment_name: found ['a', 'b']; expected one text"),
        ("chat_completion", "experiment_name: {a: 1}", "experiment_name: found {'a': 1}; expected one text"),
        ("chat_completion", "experiment_name:", "experiment_name: found no value; expected one text"),
        ("chat_completion", "seed: no", "seed: found 'no'; expected a whole number"),
        ("chat_completion", "max_steps: 1.5", "max_steps: found 1.5; expected a whole number"),
        ("chat_completion", "max_steps: 1:30", "max_steps: found '1:30'; expected a whole number"),
        ("chat_completion", "max_steps: 2026-01-01", "max_steps: found '2026-01-01'; expected a whole number"),
        ("chat_completion", "learning_rate: fast", "learning_rate: found 'fast'; expected a number"),
        ("chat_completion", "learning_rate: .inf", "learning_rate: found '.inf'; expected a number"),
        ("chat_completion", "learning_rate: [1]", "learning_rate: found [1]; expected a number"),
        ("chat_completion", "apply_lora: 3", "apply_lora: found '3'; expected true or false"),
        ("chat_completion", "model_args: 3", "model_args: found '3'; expected an object as JSON, {\"name\": value}"),
        ("text_classification", "labels: [a, [b]]", 'a list of texts; ["b"] is not one'),
        ("text_classification", "labels: [a, ~]", "a list of texts; null is not one"),
        ("text_classification", "labels: [a, '']", "have no ',' in them"),
        ("text_classification", "labels: ['a,b', c]", "have no ',' in them"),
        ("chat_completion", 'training_data: \'[{"path": "a", "path": "b"}]\'', "the key 'path' is given twice"),
    ],
)
def test_a_value_of_another_type_names_the_parameter(tmp_path, pipeline, text, words):
    with pytest.raises(UserError) as caught:
        read_parameters(pipeline, parameters(tmp_path, text + "\n", pipeline))
    assert words in str(caught.value)


def test_json_after_p_gives_a_key_once():
    with pytest.raises(UserError, match="the key 'a' is given twice"):
        read_pairs(('model_args={"a": 1, "a": 2}',))


@pytest.mark.parametrize("section", ["", "training_args"])
def test_a_file_with_more_names_than_there_are_parameters_is_refused_at_once(tmp_path, section):
    many = {f"name_{number}": number for number in range(5_000)}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({section: many} if section else many))
    with pytest.raises(UserError, match=r"found 5,000 (keys|names); expected at most 1,000") as caught:
        read_parameters("chat_completion", parameters_in(tmp_path / "c.yaml"))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("key", ["method", "peft_type", "peft_kwargs", "model", "model_args", "deepspeed", "dtype"])
@pytest.mark.parametrize("value", [{"a": 1}, [1], [[]], True, 3.5, "a" * 5000, "\0"])
def test_values_of_another_shape_in_an_experiment_are_told(key, value):
    inside = {"method": {"method": value}, "peft_type": {"peft_conf": {key: value}},
              "peft_kwargs": {"peft_conf": {key: value}}, "model": {"run_conf": {key: value}},
              "model_args": {"run_conf": {key: value}}, "deepspeed": {"training_args": {key: value}},
              "dtype": {"model_conf": {"model_args": {key: value}}}}[key]  # fmt: skip
    shape = {"peft_kwargs": dict, "model_args": dict, "model": str, "deepspeed": str}.get(key)
    if shape and isinstance(value, shape):
        from_experiment(inside)
    else:
        with pytest.raises(UserError, match="CONFIG-E0105"):
            from_experiment(inside)
