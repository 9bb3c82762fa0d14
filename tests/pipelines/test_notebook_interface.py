"""The Python interface: what each function returns, how it looks, and what a mistake raises."""

import html
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import psutil
import pytest
from command_line import with_our_code
from conftest import chat_rows, write_jsonl
from kfp_server import tasks
from kubeflow import GIVEN
from pandas import DataFrame
from small_adapters import save_adapter

import pipelines
from pipelines.client import Connection
from pipelines.client.scheduling import Schedule
from pipelines.interface import PUBLIC
from pipelines.interface.cluster import Submitted
from pipelines.interface.data_checks import DataCheck
from pipelines.interface.failed import RunFailed, python_words
from pipelines.interface.local_runs import Result
from pipelines.interface.plans import Plan
from pipelines.live import shown_lines
from pipelines.sweeping.handle import Sweep
from pipelines.values import plain
from steps.errors import Outage, OutOfResources, Problem, SecurityRefusal, StepError, UserError

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text("utf-8")
RETURNED = {"plan": Plan, "run": Result, "check_data": DataCheck, "submit": Submitted, "schedule": Schedule,
            "sweep": Sweep}  # fmt: skip
SETTINGS = {
    "number_of_gpu_to_use_finetuning": 0,
    "max_steps": 8,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
    "learning_rate": 3e-3,
    "logging_steps": 2,
    "max_seq_length": 64,
    "evaluation_max_new_tokens": 4,
}


@pytest.fixture
def parameters(tiny_model, chat_file) -> dict:
    return {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file)}


def kept() -> dict:
    """Note what a call must leave as it is in a kernel."""
    return {"environment": dict(os.environ), "stdout": sys.stdout, "executable": sys.executable,
            "torch": sys.modules.get("torch"), "folder": os.getcwd()}  # fmt: skip


def test_importing_the_package_imports_nothing_else():
    script = (
        "import sys, pipelines\n"
        "assert {'plan', 'run', 'check_data', 'submit'} <= set(dir(pipelines))\n"
        "loaded = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "assert not loaded & {'kfp', 'torch', 'pandas', 'pydantic', 'click', 'IPython'}, loaded\n"
        "from pipelines import check_data, plan, run, submit, schedule, upload\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'kfp', 'torch', 'pandas', 'IPython'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=with_our_code())


def test_every_public_name_is_there_and_described():
    for name in PUBLIC:
        assert inspect.getdoc(getattr(pipelines, name))
    assert [name for name in PUBLIC if f"`{name}" not in PAGE] == []
    with pytest.raises(AttributeError, match="no attribute 'plans'"):
        _ = pipelines.plans
    assert not hasattr(pipelines, "sweeps")


@pytest.mark.parametrize("name", RETURNED)
def test_the_page_names_what_is_there(name):
    """The arguments in the first column of its tables, and the attributes of what a function returns in the second."""
    (row,) = re.findall(rf"^\| `{name}\((.*?)\)`.*?\| (.*) \|$", PAGE, re.M)
    arguments, returned = row
    own = inspect.signature(getattr(pipelines, name)).parameters
    assert {word.split("=")[0] for word in arguments.split(", ") if "*" not in word} <= set(own)
    kind = RETURNED[name]
    attributes = {attribute for attribute in dir(kind) if not attribute.startswith("_")}
    attributes |= set(getattr(kind, "__dataclass_fields__", {})) | ({"facts"} if kind is Result else set())
    named = set(re.findall(r"`\.(\w+)", returned))
    assert len(named) >= 4
    assert named <= attributes, named - attributes


def test_the_examples_of_the_page_are_python():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 4
    for block in blocks:
        compile(block, "docs/python.md", "exec")


@pytest.mark.parametrize("name", ["plan", "run", "submit", "schedule", "sweep"])
def test_no_argument_of_a_function_hides_a_parameter_of_a_pipeline(name):
    from steps.params.group import old_names
    from steps.params.pipelines import PARAMETER_MODELS

    own = set(inspect.signature(getattr(pipelines, name)).parameters)
    for model in PARAMETER_MODELS.values():
        hidden = own & {*model.model_fields, *old_names(model)}
        assert hidden <= ({"seed"} if name == "sweep" else set()), "docs/python.md says which seed it is"


def test_no_argument_of_the_data_check_hides_a_column():
    from steps.running import data_parameters, task_names

    own = set(inspect.signature(pipelines.check_data).parameters)
    assert not any(own & set(data_parameters(task)) for task in task_names())


def test_a_plan_is_a_page_a_text_and_data(parameters, tmp_path):
    before = kept()
    made = pipelines.plan("chat_completion", parameters, root=tmp_path / "runs", num_train_epochs=3)
    assert kept() == before
    assert made.parameters["max_steps"] == 8
    assert made.parameters["learning_rate"] == 3e-3
    assert made.warnings == ["num_train_epochs is ignored: max_steps overrides it"]
    assert repr(made).startswith("plan of chat_completion\n")
    assert "WARNING num_train_epochs" in repr(made)
    assert [task["task"] for task in made.tasks][:2] == ["import_model", "prepare_data"]
    frame = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" style="[^"]*"></iframe>', made._repr_html_()
    )
    assert html.unescape(frame[1]) == made.page
    assert made.page.lstrip().startswith("<!doctype html>")
    assert not (tmp_path / "runs").exists()
    assert made.summary["checkpoints"]["place"].startswith(str(tmp_path / "runs"))


def test_parameters_come_from_a_file_and_keywords_override_them(parameters, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"pipeline": "chat-completion", **parameters, "seed": 3}))
    made = pipelines.plan("chat_completion", file, root=tmp_path, max_steps=4, max_length=32)
    assert (made.parameters["max_steps"], made.parameters["seed"]) == (4, 3)
    assert made.parameters["max_seq_length"] == 32, "also under another name than in the file"
    assert pipelines.plan("chat-completion", str(file), root=str(tmp_path)).parameters["max_steps"] == 8


def test_an_experiment_in_sections_is_read_too(parameters, tmp_path):
    file = tmp_path / "experiment.yaml"
    sections = {
        "method": "sft",
        "run_conf": {"model": parameters["pytorch_model_path"]},
        "training_args": {"learning_rate": 2e-3, "max_steps": 4},
        "data_conf": {"training_data": {"datasets": [{"path": parameters["train_file_path"]}]}},
    }
    file.write_text(json.dumps(sections))
    made = pipelines.plan("chat_completion", file, root=tmp_path, number_of_gpu_to_use_finetuning=0, max_steps=5)
    assert (made.parameters["learning_rate"], made.parameters["max_steps"]) == (2e-3, 5)


def test_values_may_be_those_of_other_libraries(parameters, chat_file, tmp_path):
    given = {
        **parameters,
        "pytorch_model_path": Path(parameters["pytorch_model_path"]),
        "train_file_path": [chat_file],
        "learning_rate": numpy.float64(2e-3),
        "max_steps": numpy.int64(4),
        "train_on_completions_only": numpy.bool_(True),
    }
    made = pipelines.plan("chat_completion", given, root=tmp_path)
    assert made.parameters["train_file_path"] == str(chat_file)
    assert (made.parameters["learning_rate"], made.parameters["max_steps"]) == (2e-3, 4)
    assert made.parameters["train_on_completions_only"] is True


def test_what_a_file_could_have_stays_as_it_is():
    for value in (None, True, 3, 0.5, "text", [1, "a"], {"a": [None, {"b": False}]}):
        assert plain(value) == value
        assert type(plain(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.array([1, 2]), [1, 2]),
        (numpy.str_("a"), "a"),
        (numpy.float32(0.5), 0.5),
        ({"b", "a"}, ["a", "b"]),
        ({1: (Path("a"), numpy.int8(3))}, {"1": ["a", 3]}),
        (DataFrame({"a": [1.5]})["a"], [1.5]),
    ],
)
def test_other_values_become_plain(value, expected):
    made = plain(value)
    assert json.loads(json.dumps(made)) == expected


MISTAKES = {
    "unknown pipeline": (lambda p: pipelines.plan("chat_complet", p), ["did you mean chat_completion?"]),
    "no pipeline": (lambda p: pipelines.plan(None, p), ["PARAM-E0112 pipeline"]),
    "no task": (lambda p: pipelines.check_data(None), ["PARAM-E0112 task"]),
    "rows in place of files": (lambda p: pipelines.check_data("chat_completion", {"a": 1}), ["PARAM-E0114 train"]),
    "a table in place of files": (
        lambda p: pipelines.check_data("chat_completion", test=DataFrame({"a": [1]})),
        ["PARAM-E0114 test: found a DataFrame"],
    ),
    "rows in a list": (lambda p: pipelines.check_data("chat_completion", [{"a": 1}]), ["PARAM-E0114"]),
    "a list": (lambda p: pipelines.plan("chat_completion", [1]), ["PARAM-E0113 parameters: found [1], a list"]),
    "no such file": (lambda p: pipelines.plan("chat_completion", "none.yaml"), ["none.yaml: found no such file"]),
    "another pipeline": (lambda p: pipelines.plan("translation", {**p, "pipeline": "preference"}), ["CONFIG-E0103"]),
    "all at once": (
        lambda p: pipelines.plan("chat_completion", p, lerning_rate=1, lora_r=0, epochs="x"),
        ["learning_rate?", "lora_r", "epochs"],
    ),
    "the same in run": (
        lambda p: pipelines.run("chat_completion", p, lerning_rate=1, lora_r=0),
        ["learning_rate?", "lora_r"],
    ),
    "no data": (lambda p: pipelines.plan("chat_completion", p, train_file_path="none.jsonl"), ["URI-E0201"]),
    "no place": (lambda p: pipelines.run("chat_completion", p, root="/dev/null/runs"), ["OUTPUT-E0101 root: found"]),
    "unknown task": (lambda p: pipelines.check_data("chat"), ["DATA-E0100 task"]),
    "unknown column": (lambda p: pipelines.check_data("chat_completion", "a", colum="b"), ["PARAM-E0101 colum"]),
    "no file": (lambda p: pipelines.check_data("chat_completion", train="none.jsonl"), ["URI-E0201"]),
    "a schedule without times": (lambda p: pipelines.schedule("chat_completion", p), ["CLIENT-E0111 cron, every"]),
    "both places": (
        lambda p: pipelines.submit("chat_completion", GIVEN, endpoint="http://a", server=Connection()),
        ["CLIENT-E0119"],
    ),
    "no profile": (lambda p: pipelines.submit("chat_completion", p, profile="none.yaml"), ["none.yaml"]),
    "a file of this machine": (lambda p: pipelines.submit("chat_completion", p), ["CLIENT-E0109"]),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_an_error_with_every_problem_in_words_of_python(what, parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, expected = MISTAKES[what]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        call(parameters)
    told = str(caught.value)
    for words in expected:
        assert words in told
    assert "--" not in told
    assert " -f" not in told
    assert len(caught.value.problems) >= len(expected)
    assert sorted(tmp_path.iterdir()) == before, "nothing was written"
    assert caught.value._render_traceback_() == ["UserError:", *told.splitlines()]


def test_a_secret_is_refused(parameters, tmp_path):
    with pytest.raises(SecurityRefusal, match="PARAM-E0302 registered_model_name"):
        pipelines.plan("chat_completion", parameters, registered_model_name="hf_" + "a" * 34, root=tmp_path)


@pytest.mark.parametrize(
    ("where", "fix", "told"),
    [
        ("--run-name", "add --endpoint https://…", ("run_name", "add endpoint https://…")),
        ("--cron, --every", "write --every 6h", ("cron, every", "write every 6h")),
        ("a.yaml", "correct the path after -f", ("a.yaml", "correct the path")),
        ("pipeline", "run it with `finetune run preference`", ("pipeline", "run it with run('preference', …)")),
        ("data/a--b.jsonl", "see x-y", ("data/a--b.jsonl", "see x-y")),
    ],
)
def test_flags_become_arguments(where, fix, told):
    with pytest.raises(UserError) as caught, python_words():
        raise UserError(Problem("X-E0001", where, "--a", "b", fix))
    (problem,) = caught.value.problems
    assert (problem.where, problem.fix) == told
    assert problem.found == "--a"
    assert str(caught.value) == str(problem)


def test_valid_data_is_counted(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", chat_rows(60))
    test = write_jsonl(tmp_path / "b.jsonl", chat_rows(80)[60:])
    check = pipelines.check_data("chat_completion", train=file, test=test)
    assert check
    assert check.valid
    assert check.counts["test"] == 20
    assert check.counts["train"] + check.counts["validation"] == 60
    assert check.problems == []
    assert len(check.table()) == 0
    assert any("taken from the training rows" in note for note in check.notes)
    assert "all rows are valid" in repr(check)
    assert "<td>20</td>" in check._repr_html_()


def test_wrong_rows_are_a_table(tmp_path):
    rows = [*chat_rows(20), *[{"messages": [{"role": "<b>", "content": "hi"}]}] * 3]
    check = pipelines.check_data("chat_completion", train=[write_jsonl(tmp_path / "a.jsonl", rows)])
    assert not check
    assert [problem.code for problem in check.problems] == ["DATA-E0412"]
    assert check.table().to_dict("records")[0]["rows"] == 3
    assert check.table()["where"][0].endswith("a.jsonl:21 (record 21) messages[0].role")
    assert str(check.problems[0]) in repr(check)
    assert "&lt;b&gt;" in check._repr_html_()
    assert "<b>" not in check._repr_html_()


def test_files_and_columns_of_a_check(tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "b, c.csv"]
    for number, file in enumerate(files):
        file.write_text("text;label\n" + "".join(f"some words {number} {n};{n % 2}\n" for n in range(40)))
    check = pipelines.check_data(
        "text_classification", train=files, sentence1_key="text", label_key="label", delimiter=";"
    )
    assert sum(check.counts.values()) == 80
    mix = [{"path": str(file), "sampling_weight": 0.5} for file in files]
    mixed = pipelines.check_data(
        "text_classification", train=None, training_data=mix, sentence1_key="text", label_key="label", delimiter=";"
    )
    assert len(mixed.sources) == 2
    assert "train: " in repr(mixed)


def test_two_calls_at_once_do_not_meet(parameters, chat_file, tmp_path):
    before = kept()
    plans: dict[int, object] = {}

    def work(steps: int) -> None:
        plans[steps] = pipelines.plan("chat_completion", parameters, root=tmp_path, max_steps=steps).parameters

    threads = [threading.Thread(target=work, args=(steps,)) for steps in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {steps: made["max_steps"] for steps, made in plans.items()} == {3: 3, 4: 4}
    assert kept() == before


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_run_tells_its_result_and_a_second_one_is_reused(parameters, runs_root, capsys):
    before = kept()
    result = pipelines.run("chat_completion", parameters, root=runs_root, gate_metric="loss")
    assert kept() == before
    told = capsys.readouterr().out
    assert "▸ finetune\n" in told
    assert "step 8/8  loss" in told
    assert result.status == "succeeded"
    assert set(result.metrics) == {"base", "tuned"}
    assert result.metrics["tuned"]["loss"] < result.metrics["base"]["loss"]
    assert result.table().loc["loss", "tuned"] == result.metrics["tuned"]["loss"]
    assert result.passed
    assert result.gate["passed"] is True
    assert result.version["version"] == "1"
    assert (result.model / "config.json").is_file()
    assert result.report.parent == result.folder
    assert result.log.is_file()
    assert json.loads((result.folder / "result.json").read_text()) == result.facts
    assert result.parameters["max_steps"] == 8
    assert "gate    Passed: loss" in repr(result)
    shown = result._repr_html_()
    assert "<td>loss</td>" in shown
    assert html.escape(result.report.read_text("utf-8")) in shown

    again = pipelines.run("chat_completion", parameters, root=runs_root, gate_metric="loss", show=False)
    assert capsys.readouterr().out == ""
    assert "finetune" in again.facts["reused"]
    assert again.metrics == result.metrics


@pytest.mark.slow
def test_a_pipeline_that_trains_nothing_shows_its_result(tiny_model, tmp_path):
    adapter = save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])
    given = {"pytorch_model_path": tiny_model, "adapter_path": adapter, "action": "check"}
    result = pipelines.run("adapter_tools", given, root=tmp_path / "runs", show=False)
    assert (result.status, result.gate, result.version, result.passed) == ("succeeded", None, None, False)
    assert result.facts["artifacts"]["result"] in repr(result)
    assert result.facts["artifacts"]["result"] in result._repr_html_()


def test_a_run_that_fails_raises_its_error_with_the_result(parameters, tmp_path, capsys):
    file = write_jsonl(tmp_path / "few.jsonl", chat_rows(3))
    with pytest.raises(RunFailed, match="expected at least 10 for training") as caught:
        pipelines.run("chat_completion", parameters, root=tmp_path / "runs", train_file_path=file)
    error = caught.value
    assert (error.exit_code, error.step) == (2, "plan")
    assert [problem.code for problem in error.problems] == ["PLAN-E0361"]
    assert error.result.status == "failed"
    assert error.result.error["problems"] == [str(error)]
    assert error.result.model is None
    assert error.result.report is None
    assert not error.result.passed
    assert str(error) in repr(error.result)
    assert "few.jsonl" in error.result._repr_html_()
    assert error._render_traceback_() == ["RunFailed:", str(error)]


def test_a_process_that_gives_no_answer_is_an_error(parameters, tmp_path, monkeypatch):
    from pipelines.interface import process

    monkeypatch.setattr(process, "ANSWER", "nowhere.json")
    with pytest.raises(StepError, match="RuntimeError: the process of plan ended with 0 and no answer") as caught:
        pipelines.plan("chat_completion", parameters, root=tmp_path)
    assert "tracking    sqlite:" in caught.value._render_traceback_()[-1], "the last that it printed"


def test_a_killed_process_lacked_memory(parameters, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os, signal, sys\n"
        "if 'pipelines.interface.job' in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGKILL)\n")  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OutOfResources, match="RUN-E1501 plan: found a process that was killed"):
        pipelines.plan("chat_completion", parameters, root=tmp_path)


def test_a_bug_is_told_with_its_traceback(tmp_path):
    from pipelines.interface.process import do

    with pytest.raises(StepError, match="BUG-E0070") as caught:
        do("check-data", tmp_path, print, nonsense=1)
    assert caught.value.exit_code == 70
    assert "Traceback (most recent call last)" in caught.value._render_traceback_()[-1]


INTERRUPTED = """
import json, signal, sys
from pipelines import RunStopped, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with the signal ignored
try:
    run("chat_completion", json.loads(sys.argv[1]), root=sys.argv[2])
except RunStopped as stopped:
    print(*stopped._render_traceback_(), sep="\\n")
    print("STOPPED", stopped.result and stopped.result.error["code"])
"""


@pytest.fixture
def training(parameters, runs_root):
    """A script whose run has saved its first checkpoint; it is the leader of a group."""
    longer = {**parameters, "max_steps": 200, "save_steps": 10, "register_tuned_model": False}
    command = [sys.executable, "-c", INTERRUPTED, json.dumps(longer), str(runs_root)]
    child = subprocess.Popen(
        command, env=with_our_code(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    until = time.monotonic() + 300
    while not list(runs_root.glob("checkpoints/*/*/checkpoint-10/manifest.json")):
        assert time.monotonic() < until
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    yield child, longer
    child.kill()
    child.communicate()


@pytest.mark.slow
def test_an_interrupt_saves_a_checkpoint_and_the_next_run_goes_on(training, runs_root):
    child, longer = training
    child.send_signal(signal.SIGINT)
    told, _ = child.communicate(timeout=300)
    assert "STOPPED 143" in told
    assert "RunStopped:" in told
    assert "Traceback" not in told
    resumed = pipelines.run("chat_completion", longer, root=runs_root, resume_from_checkpoint=True, show=False)
    history = json.loads(Path(resumed.facts["artifacts"]["tuned"], "history.json").read_text())
    assert history["resumed_from"] >= 10


@pytest.mark.slow
@pytest.mark.long
def test_an_interrupt_of_the_group_counts_once_as_jupyter_and_a_terminal_send_it(training):
    child, _ = training
    os.killpg(child.pid, signal.SIGINT)
    told, _ = child.communicate(timeout=300)
    assert "STOPPED 143" in told


@pytest.mark.slow
@pytest.mark.long
def test_a_second_interrupt_stops_at_once(training):
    child, _ = training
    below = psutil.Process(child.pid).children(recursive=True)
    for _ in range(2):
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
    told, _ = child.communicate(timeout=300)
    assert "RunStopped:" in told
    assert "Traceback" not in told
    assert ended(below)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_kernel_leaves_no_process(training):
    child, _ = training
    below = psutil.Process(child.pid).children(recursive=True)
    assert len(below) >= 2
    child.kill()
    assert ended(below)


def ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=300)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_check_that_is_interrupted_says_so(tmp_path, monkeypatch):
    from pipelines.interface import data_checks
    from pipelines.interface.process import Stopped

    def stopped(*_, **__):
        raise Stopped(None)

    monkeypatch.setattr(data_checks, "do", stopped)
    with pytest.raises(KeyboardInterrupt, match="the check was stopped"):
        pipelines.check_data("chat_completion", train="a.jsonl")


def test_progress_is_one_output_in_a_cell(monkeypatch, capsys):
    import IPython

    told = []

    class Handle:
        def update(self, data, raw):
            told.append(("update", data["text/plain"]))

    def display(data, raw, display_id):
        told.append(("new", data["text/plain"]))
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": None})())
    monkeypatch.setattr(IPython.display, "display", display)
    show = shown_lines()
    for line in ("▸ finetune", "step 1/3  loss 1", "step 2/3  loss 1", "saved", "step 3/3  loss 1"):
        show(line)
    assert told == [("new", "step 1/3  loss 1"), ("update", "step 2/3  loss 1"), ("new", "step 3/3  loss 1")]
    assert capsys.readouterr().out == "▸ finetune\nsaved\n"


@pytest.mark.usefixtures("compiled_once")
class TestOnACluster:
    def test_a_submitted_run_knows_its_state_and_is_waited_for(self, kfp_server, capsys):
        submitted = pipelines.submit("chat_completion", GIVEN, plan=False, learning_rate=1e-4, run_name="mine")
        assert submitted.id in kfp_server.runs
        assert submitted.url == f"{kfp_server.url}/#/runs/details/{submitted.id}"
        assert submitted.name == "mine"
        assert submitted.command.startswith("kfp --endpoint")
        assert submitted.url in capsys.readouterr().out
        (made,) = kfp_server.asked("POST runs")
        assert made["body"]["runtime_config"]["parameters"]["learning_rate"] == 1e-4
        kfp_server.progress = [tasks(plan="RUNNING"), tasks(evaluate="SUCCEEDED", condition_1="SUCCEEDED"),
                               tasks("SUCCEEDED", evaluate="SUCCEEDED", condition_1="SUCCEEDED")]  # fmt: skip
        assert submitted.state == "RUNNING"
        assert submitted.wait() is submitted
        assert (submitted.state, submitted.gate) == ("SUCCEEDED", "passed")
        assert "SUCCEEDED" in capsys.readouterr().out
        assert f'<a href="{submitted.url}"' in submitted._repr_html_()
        assert submitted.id in repr(submitted)

    def test_a_run_that_fails_raises_its_error(self, kfp_server):
        submitted = pipelines.submit("chat_completion", GIVEN, plan=False, show=False)
        kfp_server.progress = [tasks("FAILED", finetune="FAILED")]
        with pytest.raises(RunFailed) as caught:
            submitted.wait(show=False)
        assert caught.value.result is submitted
        assert caught.value.step == "finetune"
        assert submitted.error["problems"][0] in repr(submitted)

    def test_an_endpoint_may_be_named(self, kfp_server, monkeypatch, capsys):
        monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
        with pytest.raises(UserError, match="add endpoint https"):
            pipelines.submit("chat_completion", GIVEN, plan=False)
        here = {"endpoint": kfp_server.url, "plan": False, "show": False}
        assert pipelines.submit("chat_completion", GIVEN, **here).id in kfp_server.runs
        server = Connection(endpoint=kfp_server.url)
        assert pipelines.submit("chat_completion", GIVEN, server=server, plan=False, show=False).id in kfp_server.runs
        assert capsys.readouterr().out == ""

    def test_a_profile_is_a_file(self, kfp_server, tmp_path):
        profile = tmp_path / "cluster.yaml"
        profile.write_text("service_account: tuner\n")
        pipelines.submit("chat_completion", GIVEN, profile=profile, plan=False, show=False)
        pipelines.schedule("chat_completion", GIVEN, profile=str(profile), plan=False, every="6h")
        for path in ("POST runs", "POST recurringruns"):
            (made,) = kfp_server.asked(path)
            assert made["body"]["service_account"] == "tuner"

    def test_a_schedule_and_an_upload_show_themselves(self, kfp_server):
        (done, short) = pipelines.upload("chat_completion")
        assert done.new
        assert short.new
        made = pipelines.schedule("chat_completion", GIVEN, cron="30 6 * * 1-5", name="early", plan=False)
        assert (made.name, made.when, made.state) == ("early", "0 30 6 * * 1-5", "ENABLED")
        assert made.url.startswith(kfp_server.url)
        assert "early" in repr(made)
        assert f'<a href="{made.url}"' in made._repr_html_()

    def test_no_answer_is_an_outage(self, kfp_server):
        kfp_server.fail["GET healthz"] = (503, "away", {})
        with pytest.raises(Outage):
            pipelines.submit("chat_completion", GIVEN, plan=False)
