"""Wrong commands and places: each ends with its code and a fix, and is told once to people and once to programs."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import FINETUNE, with_our_code
from conftest import chat_rows, write_jsonl
from forking import ForkingPython

pytestmark = pytest.mark.slow  # together half a minute: too long for test-fast


@pytest.fixture(scope="module")
def python() -> Iterator[ForkingPython]:
    """A Python that has loaded what most commands need."""
    made = ForkingPython(["pipelines.cli", "pipelines.supervised", "pipelines.runs", "steps.plan.deciding"],
                         with_our_code())  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def finetune(python, tmp_path):
    """Run the command in a fork, in an empty folder."""

    def run(*words: str | Path, **more: str) -> subprocess.CompletedProcess:
        return python.ended(FINETUNE[-1], *map(str, words), cwd=tmp_path, environment={**with_our_code(), **more})

    return run


@pytest.fixture
def good(tiny_model, chat_file) -> list[str]:
    return ["-p", f"pytorch_model_path={tiny_model}", "-p", f"train_file_path={chat_file}"]


def outcome(done: subprocess.CompletedProcess) -> dict:
    assert "Traceback" not in done.stderr + done.stdout
    return json.loads(done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "flag",
    ["--max-steps=-1", "--max-steps -1", "-p max_steps=-1", "--evaluation-max-rows=-1", "--max-seq-length -1",
     "--gate-max-value=-1", "--gate-max-value -1.0", "--apply-lora", "--apply-lora=no", "--apply-lora --seed 3",
     "--learning-rate=1e-5", "--learning-rate 1E-5", "--response-template=-x", "--response-template --x"],
)  # fmt: skip
def test_a_value_may_begin_with_a_minus(finetune, good, flag):
    done = finetune("plan", "chat_completion", *good, *flag.split())
    assert done.returncode == 0, done.stderr


WRONG_WORDS = {
    "plans": "did you mean plan?",
    "plan chat_completion --lerning-rate 1": "did you mean --learning-rate?",
    "plan chat_completion --seed": "requires an argument",
    "plan chat_completion --seed=--5": "seed: found '--5'; expected a whole number",
    "plan chat_completion --learning-rate=-1e-5": "learning_rate: found '-1e-5'; expected a number above 0",
    "plan chat_completion --learning-rate=inf": "learning_rate: found 'inf'; expected a number that is not infinite",
    "plan chat_completion --learning-rate=nan": "learning_rate: found 'nan'; expected a number that is not infinite",
    "plan chat_completion --apply-lora=-1": "the option -1",
    "plan chat_completion more": "unexpected extra argument",
    "plan --seed 1": "no name of a pipeline",
    "plan -f nowhere.yaml": "no such file",
    "plan -f": "requires an argument",
    "plan chat_competion": "did you mean chat_completion?",
    "list more": "unexpected extra argument",
    "completion": "bash",
    "completion tcsh": "'tcsh' is not one of 'bash', 'zsh', 'fish'",
    "check-data": "Missing argument 'TASK'",
    "check-data chat_competion --train x": "did you mean chat_completion?",
    "check-data chat_completion --trai x": "did you mean --train?",
    "check-data chat_completion --train x -p max_files=many": "max_files: found 'many'; expected a whole number",
    "check-data chat_completion --train nowhere.jsonl": "nothing at 'nowhere.jsonl'",
    "run adapter_tools --gate-exit": "adapter_tools, which has no gate",
    "compile --image nope=x chat_completion": "found 'nope'; expected one of finetune-pipelines-core:",
    "compile --image finetune-pipelines-cor=x": "did you mean finetune-pipelines-core?",
    "compile --image finetune-pipelines-core": "expected IMAGE=REFERENCE",
    "compile --image finetune-pipelines-core=": "expected IMAGE=REFERENCE",
    "compile --image =x": "expected one of",
    "compile --image finetune-pipelines-core=a --image finetune-pipelines-core=b": "a second reference",
}


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_a_wrong_command_exits_2_with_a_fix(finetune, words):
    done = finetune(*words.split())
    assert done.returncode == 2, done.stderr
    told = outcome(done)
    assert told["code"] == 2
    assert all(told[part] for part in ("where", "found", "expected", "fix"))
    assert WRONG_WORDS[words] in " ".join(told["problems"])


FILES = {
    "named": ("pipeline: chat_completion\n", ""),
    "hyphened": ("pipeline: chat-completion\n", ""),
    "experiment": ("method: sft\ntraining_args: {learning_rate: 1e-4}\n", ""),
    "json": ('{"pipeline": "chat_completion"}', ""),
    "unnamed": ("seed: 1\n", "without a line pipeline:"),
    "misspelt": ("pipeline: chat_completon\n", "did you mean chat_completion?"),
    "listed": ("pipeline: [chat_completion]\n", "found ['chat_completion']"),
    "empty": ("pipeline:\n", "without a line pipeline:"),
}


FORMS = ["-f {}", "-f{}", "--config {}", "--config={}", "--json -f {}", "--seed 3 -f {}"]
# Each file and each form once; the other combinations with the slow tests.
IN_FILES = [
    pytest.param(name, form, id=f"{name} {form}", marks=[] if form == FORMS[0] or name == "named" else pytest.mark.slow)
    for name in FILES for form in FORMS
]  # fmt: skip


@pytest.mark.parametrize(("name", "form"), IN_FILES)
def test_the_pipeline_may_stand_in_the_file_only(finetune, good, tmp_path, name, form):
    text, refused = FILES[name]
    (tmp_path / "a b.yaml").write_text(text)
    words = [word.replace("{}", "a b.yaml") for word in form.split()]
    done = finetune("plan", *words, *good)
    assert (done.returncode, refused in done.stderr) == (2 if refused else 0, True), done.stderr


@pytest.mark.parametrize("place", [0, 2, 4, 6])
def test_the_pipeline_may_stand_anywhere(finetune, good, tmp_path, place):
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    words = [*good, "-f", "c.yaml"]
    assert finetune("plan", *words[:place], "chat_completion", *words[place:]).returncode == 0


def places(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "deep" / "er",
        "a dangling link": tmp_path / "dangling",
        "a loop of links": tmp_path / "loop" / "x",
        "a name too long": tmp_path / ("x" * 300),
        "where nothing can be made": Path("/proc/finetune"),
    }


IMPOSSIBLE = ["below a file", "a loop of links", "a name too long", "where nothing can be made"]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        *((command, kind) for command in ("run", "compile") for kind in ("a file", "a dangling link", *IMPOSSIBLE)),
        *(("check-data", kind) for kind in ("a folder", *IMPOSSIBLE)),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(finetune, good, chat_file, tmp_path, command, kind):
    place = tmp_path if kind == "a folder" else places(tmp_path)[kind]
    before = sorted(tmp_path.rglob("*"))
    words = {
        "run": ["run", "chat_completion", *good, "--root", place],
        "compile": ["compile", "chat_completion", "-o", place],
        "check-data": ["check-data", "chat_completion", "--train", chat_file, "--json", place],
    }[command]
    done = finetune(*words)
    assert done.returncode == 2, done.stderr
    assert outcome(done)["where"] == {"run": "--root", "compile": "--output", "check-data": "--json"}[command]
    assert "all rows are valid" not in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_place_is_the_users_to_change_and_a_full_one_is_a_lack_of_space(tmp_path, monkeypatch):
    import tempfile

    from pipelines.outputs import refuse_unwritable
    from steps.errors import OutOfResources, UserError

    for number, error in ((13, UserError), (30, UserError), (28, OutOfResources), (122, OutOfResources)):

        def fails(number=number, **given):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(tempfile, "TemporaryFile", fails)
        with pytest.raises(error):
            refuse_unwritable("--root", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words",
    [["plan", "chat_completion"], ["run", "chat_completion"], ["run", "chat_completion", "-p", "seed=x"],
     ["check-data", "chat_completion", "--train", "nowhere.jsonl"], ["compile", "nope"], ["nope"], ["plan", "--nope"]],
    ids=" ".join,
)  # fmt: skip
def test_an_error_is_told_once_on_a_terminal(words, tmp_path):
    ours, theirs = pty.openpty()
    done = subprocess.Popen([*FINETUNE, *words], stdout=theirs, stderr=theirs, cwd=tmp_path, env=with_our_code())
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    assert done.wait() == 2
    text = said.decode()
    assert '{"code"' not in text
    lines = [line for line in text.splitlines() if "Fix: " in line]
    assert lines
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("words", [["-p", "lerning_rate=1"], ["--nope"], ["-p", "train_file_path=nowhere.jsonl"],
                                   ["-f", "nowhere.yaml"]], ids=" ".join)  # fmt: skip
def test_with_json_stdout_is_one_object_that_holds_the_error(finetune, good, command, words):
    done = finetune(command, "chat_completion", *good, "--json", *words)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == outcome(done)
    assert len(done.stderr.strip().splitlines()) == 1 + done.stderr.count("WARNING")


def test_a_bug_is_reported_with_its_traceback_and_code_70(tmp_path):
    script = "import pipelines.cli as c\nc.cli.commands['list'].callback = lambda **_: 1 / 0\nc.main()"
    done = subprocess.run([sys.executable, "-c", script, "list"], capture_output=True, text=True, env=with_our_code())
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["found"] == "ZeroDivisionError: division by zero"


def test_a_reader_that_stops_reading_is_no_bug():
    command = f"{sys.executable} -W ignore -c 'from pipelines.cli import main; main()' describe chat_completion"
    done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, env=with_our_code())
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


COMPLETIONS = {
    "finetune describe tr": {"translation"},
    "finetune compile chat_completion sum": {"summarization"},
    "finetune check-data tok": {"token_classification"},
    "finetune run chat_completion -p warm": {"warmup_steps=", "warmup_ratio="},
    "finetune run chat_completion -p evaluation_strategy = e": {"epoch"},
    "finetune run chat_completion -p evaluation_strategy =": {"epoch", "steps", "no"},
    "finetune run chat_completion -p seed = 1 -p lora_al": {"lora_alpha="},
    "finetune check-data chat_completion -p messages": {"messages_key="},
    "finetune check-data text_classification -p multilabel = t": {"true"},
    "finetune check-data -p max_row": {"max_row_mib="},
    "finetune run chat_completion --lr-scheduler-type = cos": {"cosine", "cosine_with_restarts"},
    "finetune run chat_completion --lr-scheduler-type cos": {"cosine", "cosine_with_restarts"},
    "finetune run -p label_k": set(),
    "finetune run -p lora_al": {"lora_alpha="},
    "finetune run chat_completion --gate-ex": {"--gate-exit"},
    "finetune compl": {"completion"},
}


@pytest.mark.parametrize("text", COMPLETIONS)
def test_completion_knows(finetune, text):
    words = {"_FINETUNE_COMPLETE": "bash_complete", "COMP_WORDS": text, "COMP_CWORD": str(text.count(" "))}
    done = finetune(**words)
    assert {line.partition(",")[2] for line in done.stdout.split()} == COMPLETIONS[text], done.stderr


def test_completion_works_in_bash(tmp_path):
    script = f"""
        finetune() {{ {sys.executable} -W ignore -c 'from pipelines.cli import main; main()' "$@"; }}
        export -f finetune; printf '#!/bin/bash\\nfinetune "$@"\\n' > {tmp_path}/finetune; chmod +x {tmp_path}/finetune
        eval "$({tmp_path}/finetune completion bash)"
        COMP_WORDS=(finetune plan chat_completion -p evaluation_strategy = e); COMP_CWORD=6
        _finetune_completion {tmp_path}/finetune; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=with_our_code())
    assert done.stdout.strip() == "epoch", done.stderr


def test_a_reference_replaces_an_image_named_with_or_without_its_version():
    from pipelines.compile import replaced_images
    from pipelines.images import CORE, TRAIN, VERL

    given = [f"{CORE}=r/c@sha256:1", "finetune-pipelines-train=r/t:2", "finetune-pipelines-verl=r/v:3"]
    assert replaced_images(given) == {CORE: "r/c@sha256:1", TRAIN: "r/t:2", VERL: "r/v:3"}


@pytest.mark.parametrize("name", ["it's here", 'a "b"', "größe", "two  blanks", "a,b", "a=b", "$HOME", "a;b"])
def test_a_place_may_have_any_name(finetune, tiny_model, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    rows = write_jsonl(folder / "rows of data.jsonl", chat_rows(40))
    (folder / "model").symlink_to(tiny_model)
    (folder / "my code.py").write_text("def same(row):\n    return row\n")
    (folder / "c.yaml").write_text(
        json.dumps({"pytorch_model_path": f"{folder}/model", "train_file_path": [str(rows)],
                    "processing_function": f"{folder}/my code.py:same"})
    )  # fmt: skip
    done = finetune("plan", "chat_completion", "-f", folder / "c.yaml", "--root", folder / "runs")
    assert done.returncode == 0, done.stderr
