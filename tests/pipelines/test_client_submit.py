"""`finetune submit`: checked here, every input sent with its type, and followed to the end."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from kfp_server import KfpServer, refusal, tasks
from kubeflow import GIVEN, given
from kubernetes_server import ended, pod, unscheduled, waiting
from waiting import time_with

from steps.errors import Outage, OutOfResources, Problem, UserError
from steps.messages import end_of_log, termination_message

pytestmark = pytest.mark.usefixtures("kfp_server", "compiled_once")
ADAPTER = ["-p", "adapter_path=s3://m/a", "-p", "pytorch_model_path=s3://m/b"]
DONE = {"plan": "SUCCEEDED", "evaluate": "SUCCEEDED", "report": "SUCCEEDED"}


def sent(server: KfpServer) -> dict:
    """Return the parameters of the one run that was asked for."""
    (made,) = server.asked("POST runs")
    return made["body"]["runtime_config"]["parameters"]


def test_every_input_is_sent_with_its_type(kfp_server, finetune):
    from pipelines.catalog import PIPELINES

    words = ["-p", "learning_rate=1e-4", "--apply-lora", "-p", "max_steps=8"]
    done = finetune("submit", "chat_completion", *given(), *words)
    assert done.code == 0, done.err
    parameters = sent(kfp_server)
    assert set(parameters) == set(PIPELINES["chat_completion"].parameters.model_fields)
    assert parameters["learning_rate"] == 1e-4
    assert parameters["apply_lora"] is True
    assert type(parameters["max_steps"]) is int
    assert parameters["train_file_path"] == GIVEN["train_file_path"]
    (run,) = kfp_server.runs.values()
    assert f"{kfp_server.url}/#/runs/details/{run['run_id']}" in done.out
    assert run["pipeline_version_reference"]
    assert "experiment_id" in run
    assert [one["display_name"] for one in kfp_server.experiments.values()] == ["Default"]


def test_the_second_run_needs_no_upload(kfp_server, finetune):
    for _ in range(2):
        assert finetune("submit", "adapter_tools", "--no-plan", *ADAPTER).code == 0
    assert len(kfp_server.asked("POST pipelines/upload_version")) == 1
    assert len(kfp_server.runs) == 2
    assert len(kfp_server.experiments) == 1


def test_all_problems_are_told_and_nothing_is_sent(kfp_server, finetune):
    words = ["-p", "learning_rate=fast", "-p", "epochs=3", "-p", "lora_r=0"]
    done = finetune("submit", "chat_completion", *given(), *words)
    assert done.code == 2
    assert len(done.problem["problems"]) == 3
    assert kfp_server.requests == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-p", "registered_model_name=hf_" + "a" * 34], "PARAM-E0302"),
        (["--run-name", "hf_" + "a" * 34], "CLIENT-E0303"),
        (["--experiment", "ghp_" + "a" * 36], "CLIENT-E0303"),
        (["-p", "registered_model_name=x{{$.inputs}}"], "PARAM-E0301"),
    ],
)
def test_secrets_and_placeholders_are_refused(kfp_server, finetune, words, code):
    done = finetune("submit", "chat_completion", *given(), *words)
    assert done.code == 3
    assert code in done.err
    assert kfp_server.requests == []


def test_defaults_of_a_profile_are_sent_unless_the_user_says_otherwise(kfp_server, finetune, tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text("defaults: {learning_rate: 0.5, instance_type_finetune: gpu-node}\n"
                       "instance_types: {gpu-node: {cpu: 8, memory: 64, gpus: 1, gpu_memory: 80}}\n"
                       "volumes: [{claim: c, mount_path: /ckpt, holds: [checkpoints]}]\n")  # fmt: skip
    done = finetune("submit", "chat_completion", *given(), "--profile", profile, "--learning-rate", "2e-5")
    assert done.code == 0, done.err
    parameters = sent(kfp_server)
    assert parameters["learning_rate"] == 2e-5  # the pipeline's own default, which differs from the profile's
    assert parameters["instance_type_finetune"] == "gpu-node"
    assert parameters["checkpoint_dir"] == "/ckpt/checkpoints"


@pytest.mark.parametrize(("words", "account"), [([], "tuner"), (["--service-account", "other"], "other")])
def test_the_service_account_is_the_profiles_unless_the_user_names_one(kfp_server, finetune, tmp_path, words, account):
    profile = tmp_path / "cluster.yaml"
    profile.write_text("service_account: tuner\n")
    assert finetune("submit", "chat_completion", *given(), "--profile", profile, *words).code == 0
    every = ["--every", "6h"]
    assert finetune("schedule", "chat_completion", *given(), *every, "--profile", profile, *words).code == 0
    for path in ("POST runs", "POST recurringruns"):
        (made,) = kfp_server.asked(path)
        assert made["body"]["service_account"] == account


def test_types_and_choices_are_those_of_the_compiled_file():
    """Whatever type a parameter gets in KFP, its value is sent so."""
    from kubeflow import remembered

    from pipelines.client.packages import Package, package_of
    from pipelines.client.values import values_for

    whole = remembered(package_of)("chat_completion")
    spec = json.loads(json.dumps(whole.documents[0]))
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    inputs["precision"] = {"parameterType": "STRING", "defaultValue": "32", "literals": ["32", "16"]}
    inputs["lora_r"] = {"parameterType": "STRING", "defaultValue": "16"}  # as of a profile
    inputs["max_steps"] = {"parameterType": "NUMBER_DOUBLE", "defaultValue": -1.0}
    inputs["apply_lora"] = {"parameterType": "BOOLEAN", "defaultValue": True, "literals": [True, False]}
    del inputs["seed"]
    package = Package(json.dumps(spec), whole.published)
    values = values_for(package, {**GIVEN, "precision": "16", "seed": "3", "max_steps": "5"})
    assert values.inputs["precision"] == "16"
    assert values.inputs["lora_r"] == "16"
    assert type(values.inputs["max_steps"]) is float
    assert values.inputs["apply_lora"] is True
    assert values.inputs["overrides"] == {"seed": 3}
    assert [words for name, one in values.inputs.items() if (words := refusal(name, one, inputs))] == []
    inputs["precision"]["literals"] = ["32"]
    with pytest.raises(UserError, match="CLIENT-E0108 precision"):
        values_for(Package(json.dumps(spec), whole.published), {**GIVEN, "precision": "16"})


@pytest.mark.parametrize(
    ("word", "sent_as"), [("on", "on"), ("true", "on"), (True, "on"), ("off", "off"), ("no", "off")]
)
def test_the_words_of_kfp_and_our_own_mean_the_same(word, sent_as):
    from kubeflow import remembered

    from pipelines.client.packages import package_of
    from pipelines.client.values import values_for

    given = {**GIVEN, "resume_from_checkpoint": word, "checkpoint_dir": "/checkpoints"}
    sent = values_for(remembered(package_of)("chat_completion"), given).inputs["resume_from_checkpoint"]
    assert sent == sent_as


ODD = [
    "123",
    "true",
    "1e-5",
    '"quoted"',
    "it's",
    "[1]",
    "a b",
    "$HOME `x`",
    "null",
    "NaN",
    "",
    "-x",
    "a=b",
    "٣",
    "é\\n",
]


@pytest.mark.parametrize("text", ODD)
def test_the_printed_command_of_kfp_keeps_texts_as_texts(text):
    from kfp.cli.utils.parsing import parse_parameter_value

    from pipelines.client.values import _word

    assert parse_parameter_value(_word(text)) == text


@pytest.mark.slow
def test_the_printed_command_of_kfp_starts_the_same_run(kfp_server, finetune, tmp_path):
    words = ["-p", "precision=16", "-p", "registered_model_name=123", "-p", "resume_from_checkpoint=false"]
    done = finetune("submit", "chat_completion", *given(), *words, "--experiment", "my tests", "--run-name", "it's one")
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("the same with kfp: "))
    command = shlex.split(line.removeprefix("the same with kfp: "))
    assert command[0] == "kfp"
    run = [sys.executable, "-W", "ignore", "-c", "from kfp.cli.__main__ import main; main()", *command[1:]]
    again = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = kfp_server.asked("POST runs")
    whole = first["body"]["runtime_config"]["parameters"]
    changed = second["body"]["runtime_config"]["parameters"]
    assert {**whole, **changed} == whole
    (spec,) = kfp_server.specs.values()
    usual = {name: made["defaultValue"] for name, made in spec["root"]["inputDefinitions"]["parameters"].items()}
    assert {**usual, **changed} == whole
    for key in ("display_name", "experiment_id", "pipeline_version_reference"):
        assert first["body"][key] == second["body"][key]


def all_packages():
    from kubeflow import remembered

    from pipelines.catalog import PIPELINES
    from pipelines.client.packages import package_of

    return [remembered(package_of)(name) for name in PIPELINES]


@pytest.mark.slow
def test_every_parameter_of_every_pipeline_has_a_value_of_its_type():
    from pipelines.client.values import values_for
    from steps.params.reading import choices_of, defaults

    accepted, refused, seen = 0, set(), set()
    for package in all_packages():
        model = package.published.parameters
        spec = package.documents[0]["root"]["inputDefinitions"]["parameters"]
        usual = defaults(model)
        known = {"adapter_path": "s3://m/a", **GIVEN} if "adapter" in package.name else GIVEN
        base = {key: value for key, value in known.items() if key in model.model_fields}
        for name, field in model.model_fields.items():
            if (same := (name, str(field.annotation), str(usual[name]), name in base)) in seen:
                continue  # as in another pipeline
            seen.add(same)
            spellings = [usual[name], str(usual[name])] if name != "overrides" else [{}]
            spellings += [one for choice in choices_of(field) for one in (choice, choice.upper())]
            spellings += [True, False, "true", "no"] if field.annotation is bool else []
            spellings += [3, "3", 3.0] if field.annotation in (int, float) else []
            for value in spellings:
                try:
                    values = values_for(package, {**base, name: value})
                except UserError as error:
                    refused.update(problem.code.split("-")[0] for problem in error.problems)
                    continue
                accepted += 1
                assert [words for key, one in values.inputs.items() if (words := refusal(key, one, spec))] == []
    assert accepted > 900
    assert refused <= {"PARAM", "PLAN"}  # by our own rules, with their messages


def test_a_plan_is_made_here_if_the_sources_can_be_read(kfp_server, finetune, tiny_model, chat_file, tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"volumes: [{{claim: c, mount_path: {Path(chat_file).parents[0]}, holds: [data]}},"
                       f" {{claim: d, mount_path: {Path(tiny_model).parents[0]}, holds: [data]}}]\n")  # fmt: skip
    words = ["-p", f"pytorch_model_path={tiny_model}", "-p", f"train_file_path={chat_file}", "--profile", profile,
             "-p", "mlflow_server_uri=http://mlflow:5000"]  # fmt: skip
    done = finetune("submit", "chat_completion", *words)
    assert done.code == 0, done.err
    assert "planned here" in done.out
    wrong = finetune("submit", "chat_completion", *words, "-p", "max_seq_length=100000")
    assert wrong.code == 2
    assert len(kfp_server.runs) == 1


def test_files_of_this_machine_are_refused(kfp_server, finetune, chat_file):
    words = ["-p", "pytorch_model_path=s3://m/b", "-p", f"train_file_path={chat_file}"]
    done = finetune("submit", "chat_completion", *words)
    assert done.code == 2
    assert "CLIENT-E0109" in done.err
    assert kfp_server.requests == []


def test_sources_that_only_the_cluster_reads_do_not_stop_it(kfp_server, finetune, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    words = ["-p", "pytorch_model_path=/models/base", "-p", "train_file_path=s3://data/train.jsonl"]
    done = finetune("submit", "chat_completion", *words, "-p", "mlflow_server_uri=http://mlflow:5000")
    assert done.code == 0, done.err
    assert "not planned here: pytorch_model_path" in done.out
    assert len(kfp_server.runs) == 1


def test_a_run_is_followed_to_its_end(kfp_server, finetune):
    kfp_server.progress = [
        tasks(plan="RUNNING"),
        tasks(plan="SUCCEEDED", import_model="RUNNING"),
        tasks(plan="SUCCEEDED", import_model="SUCCEEDED", finetune="RUNNING"),
        tasks("SUCCEEDED", finetune="SUCCEEDED", **DONE, condition_1="SUCCEEDED"),
    ]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 0, done.err
    told = [line.split()[1:] for line in done.out.splitlines() if line[:1].isdigit()]
    assert ["Import", "model", "RUNNING"] in told
    assert ["Train", "and", "merge", "SUCCEEDED"] in told
    assert told.count(["Plan", "and", "check", "SUCCEEDED"]) == 1
    assert not any("driver" in words[0] or words[0] in ("root", "executor") for words in told)
    assert "gate: passed" in done.out


@pytest.mark.parametrize(
    ("gate", "words", "code"),
    [("SUCCEEDED", [], 0), ("SKIPPED", [], 7), ("CANCELED", [], 7), ("OMITTED", [], 7)],
)
def test_the_gate_decides_the_exit_code(kfp_server, finetune, gate, words, code):
    kfp_server.progress = [tasks("SUCCEEDED", **DONE, condition_1=gate)]
    assert finetune("submit", "chat_completion", *given(), "--gate-exit").code == code


FAILED = [
    UserError([Problem("DATA-E0201", "train.jsonl:7", "a truncated line", "JSON", "repair it", why="it is read"),
               Problem("DATA-E0201", "train.jsonl:9", "nothing", "JSON", "repair it")]),
    Outage(Problem("URI-E0401", "train_file_path", "no answer", "an answer", "run again")),
    OutOfResources(Problem("MEMORY-E0101", "finetune", "no memory", "memory", "use less")),
]  # fmt: skip


@pytest.mark.parametrize("error", FAILED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["pods", "task", "history", "run", "log", "log of the node"])
def test_a_failed_run_ends_with_the_code_and_the_words_of_its_step(kfp_server, kubernetes, finetune, error, way):
    message = termination_message(error.as_json("prepare-data"))
    look = tasks("FAILED", plan="SUCCEEDED", prepare_data="FAILED")
    failed = next(task for task in look["run_details"]["task_details"] if task["display_name"] == "prepare-data")
    if way == "pods":
        kubernetes.pods = [[pod("plan", "Succeeded"), ended("prepare-data", message)]]
    elif way == "task":
        failed["error"] = {"code": 2, "message": f"Error (exit code 1): {message}"}
    elif way == "history":
        failed["state_history"] = [{"state": "FAILED", "error": {"message": message.splitlines()[0]}}]
    elif way == "run":
        look["error"] = {"message": message}
    else:
        name = failed["pod_name"] if way == "log" else failed["pod_name"].replace("-", "-system-container-impl-")
        kfp_server.logs[name] = (
            f"a line\n{end_of_log(error.as_json('prepare-data'))}\nF1129 10:00:00 main.go:49] exit 1\n"
        )
    kfp_server.progress = [tasks(plan="RUNNING"), look]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == error.exit_code
    assert done.problem["step"] == "prepare-data"
    assert done.problem["found"] == error.problems[0].found
    assert done.problem["fix"] == error.problems[0].fix
    assert done.problem["problems"][0].startswith(str(error.problems[0]))
    if way in ("pods", "log"):
        assert done.problem["problems"] == [str(problem) for problem in error.problems]


def test_the_end_of_a_long_log_is_read():
    from pipelines.client.failures import outcome_of_log

    words = ("x" + " x" * 40, "y" + " y" * 40, "z" + " z" * 29)
    problems = [Problem(f"DATA-E0{number}", f"rows/train.jsonl:{number}", *words) for number in range(201, 240)]
    told = UserError(problems).as_json("prepare-data")
    outcome = outcome_of_log(f"ERROR of a library\n{end_of_log(told)}")
    assert (outcome["code"], outcome["step"], outcome["where"]) == (2, "prepare-data", "rows/train.jsonl:201")
    assert outcome["fix"] == "z" + " z" * 29
    assert outcome_of_log("ERROR something else\nDATA-E0201 x") is None
    assert outcome_of_log("") is None


def test_a_failed_run_of_which_nothing_is_known(kfp_server, finetune):
    kfp_server.progress = [tasks("FAILED", plan="FAILED")]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 2
    assert "/#/runs/details/" in done.problem["fix"]
    assert done.problem["where"] == "plan"
    assert "no access to Kubernetes" in done.out


EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}


@pytest.mark.parametrize(
    ("failed", "code", "words"),
    [
        (ended("finetune", "", 137, "OOMKilled"), 5, "memory"),
        (ended("finetune", "", 1), 4, "exit code 1"),
        (ended("finetune", "", 143), 143, "stopped"),
        (ended("finetune", "failed to download input artifact", 1), 4, "failed to download"),
        ({**pod("finetune", "Failed"), "status": EVICTED}, 4, "disk pressure"),
        ({**pod("finetune", "Failed"), "status": {"phase": "Failed", "reason": "DeadlineExceeded"}}, 5, "limit"),
    ],
    ids=["memory", "no words", "stopped", "launcher", "evicted", "deadline"],
)
def test_a_pod_that_ended_without_our_words(kfp_server, kubernetes, finetune, failed, code, words):
    kubernetes.pods = [[failed]]
    kfp_server.progress = [tasks("FAILED", finetune="FAILED")]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == code
    assert done.problem["where"] == "finetune"
    assert words in done.problem["problems"][0]


WAITS = [
    (
        unscheduled("finetune", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        "3 Insufficient nvidia.com/gpu",
    ),
    (unscheduled("finetune", "Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"), "gates"),
    (waiting("finetune", "ImagePullBackOff", 'Back-off pulling image "registry/train:1"'), "ImagePullBackOff"),
    (waiting("finetune", "ErrImagePull", "unauthorized"), "registry/train:1"),
    (waiting("finetune", "InvalidImageName", "couldn't parse image"), "InvalidImageName"),
    (waiting("finetune", "CreateContainerConfigError", 'secret "hub" not found'), 'secret "hub" not found'),
]


@pytest.mark.parametrize(("state", "words"), WAITS, ids=[words for _, words in WAITS])
def test_a_pod_that_waits_is_told_once(kfp_server, kubernetes, finetune, state, words):
    kubernetes.pods = [[state], [state], [waiting("finetune", "ContainerCreating", "")], []]
    kfp_server.progress = [tasks(finetune="RUNNING")] * 3 + [tasks("SUCCEEDED", finetune="SUCCEEDED")]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 0
    assert sum(words in line for line in done.out.splitlines()) == 1
    assert "ContainerCreating" not in done.out
    path, query = kubernetes.requests[0]
    (run,) = kfp_server.runs
    assert path == "/api/v1/namespaces/kubeflow/pods"
    assert query["labelSelector"] == [f"pipeline/runid={run}"]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_without_access_to_pods_the_rest_is_told(kfp_server, kubernetes, finetune, status):
    kubernetes.status = status
    kfp_server.progress = [tasks(plan="RUNNING"), tasks(plan="RUNNING"), tasks("SUCCEEDED", **DONE)]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 0
    assert done.out.count("no access to Kubernetes") == 1
    assert len(kubernetes.requests) == (3 if status == 500 else 1)


def test_a_run_that_was_terminated(kfp_server, finetune):
    kfp_server.progress = [tasks("CANCELING", finetune="RUNNING"), tasks("CANCELED", finetune="CANCELED")]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 143
    assert "terminated" in done.err


def test_a_time_limit_ends_the_following_only(kfp_server, finetune):
    kfp_server.progress = [tasks(plan="RUNNING")]
    done = finetune("submit", "chat_completion", *given(), "--wait", "--timeout", "0.05")
    assert done.code == 4
    assert "the run goes on" in done.problem["fix"]


def test_a_short_outage_does_not_end_the_following(kfp_server, finetune, monkeypatch):
    from pipelines.client import following

    looks = []
    real = following._asked

    def asked(server, run):
        looks.append(run)
        if len(looks) in (2, 3):
            raise Outage(Problem("CLIENT-E0402", "kfp", "502: Bad Gateway", "an answer", "run again"))
        return real(server, run)

    monkeypatch.setattr(following, "_asked", asked)
    kfp_server.progress = [tasks(plan="RUNNING"), tasks("SUCCEEDED", **DONE)]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 0
    assert done.out.count("asking again") == 1
    monkeypatch.setattr(following, "PATIENCE", -1.0)
    looks[:] = ["one"]
    assert finetune("submit", "chat_completion", *given(), "--wait").code == 4


def test_an_interruption_leaves_the_run(kfp_server, finetune, monkeypatch):
    from pipelines.client import following

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "time", time_with(sleep=interrupted))
    kfp_server.progress = [tasks(plan="RUNNING")]
    done = finetune("submit", "chat_completion", *given(), "--wait")
    assert done.code == 130
    assert "the run goes on: http" in done.out
    assert len(kfp_server.runs) == 1


def test_json_is_all_that_stdout_holds(kfp_server, finetune):
    kfp_server.progress = [tasks("SUCCEEDED", **DONE, condition_1="SKIPPED")]
    done = finetune("submit", "chat_completion", *given(), "--wait", "--json")
    told = json.loads(done.out)
    assert (told["state"], told["gate"], told["error"]) == ("SUCCEEDED", "refused", None)
    wrong = finetune("submit", "chat_completion", *given(), "-p", "lora_r=0", "--json")
    assert json.loads(wrong.out)["error"]["code"] == 2


def test_what_the_backend_refuses_is_told_in_its_words(kfp_server, finetune):
    kfp_server.fail["POST runs"] = (400, "Failed to create a run: InvalidInputError: parameter x", {})
    done = finetune("submit", "chat_completion", *given())
    assert done.code == 2
    assert "InvalidInputError: parameter x" in done.problem["found"]


def test_a_pipeline_without_a_gate_has_no_gate_exit(kfp_server, finetune):
    done = finetune("submit", "adapter_tools", "--gate-exit", "-p", "adapter_path=s3://m/a")
    assert (done.code, kfp_server.requests) == (2, [])


def test_python_submits_too(kfp_server):
    from pipelines.client import connect, submit

    said: list[str] = []
    kfp_server.progress = [tasks("SUCCEEDED", **DONE, condition_1="SUCCEEDED")]
    run = submit("chat_completion", {**GIVEN, "learning_rate": 1e-4}, plan=False, wait=True, tell=said.append,
                 server=connect(endpoint=kfp_server.url))  # fmt: skip
    assert (run.state, run.gate) == ("SUCCEEDED", "passed")
    assert sent(kfp_server)["learning_rate"] == 1e-4
    assert f'href="{run.address}"' in run._repr_html_()
    assert run.address in str(run)


@pytest.mark.parametrize("name", ["submit", "schedule"])
def test_no_option_hides_a_parameter(name):
    from pipelines.catalog import PIPELINES
    from pipelines.cli import cli

    group = cli.commands[name]
    for pipeline in PIPELINES:
        command = group.get_command(None, pipeline)
        words = [word for param in command.params for word in param.opts + param.secondary_opts]
        assert len(words) == len(set(words)), sorted({word for word in words if words.count(word) > 1})


@pytest.mark.parametrize(
    ("code", "problems", "goes_on"),
    [
        (2, ["URI-E0201 train_file_path: found nothing at '/data/x'; expected a file. Fix: correct it."], True),
        (2, ["URI-E0201 train_file_path: found nothing at 's3://d/x'; expected a file. Fix: correct it."], False),
        (2, ["URI-E0202 a: found no credentials; expected some. Fix: x.", "DATA-E0201 b: found c; expected d. Fix: e."],
         False),
        (2, ["PLAN-E0303 mlflow_server_uri: found nothing; expected a server. Fix: set it."], True),
        (3, ["MODEL-E0301 a: found pickles; expected safetensors. Fix: convert it."], False),
        (4, ["HUB-E0401 a: found no answer; expected one. Fix: run again."], True),
        (5, ["PLAN-E0401 a: found too little memory; expected more. Fix: use less."], False),
        (70, ["BUG-E0070 a: found b; expected c. Fix: report it."], True),
    ],
)  # fmt: skip
def test_what_the_plan_says_here_counts_if_the_cluster_would_say_it_too(monkeypatch, code, problems, goes_on):
    from kubeflow import remembered

    from pipelines.client import planning
    from pipelines.client.packages import package_of
    from pipelines.client.values import values_for
    from steps.errors import StepError

    package = remembered(package_of)("chat_completion")
    values = values_for(package, GIVEN)
    monkeypatch.setattr(planning, "_outcome", lambda *_: {"code": code, "problems": problems})
    said: list[str] = []
    if goes_on:
        assert planning.plan_here(package, values, None, said.append) is False
        assert len(said) == len(problems) + 1
    else:
        with pytest.raises(StepError) as raised:
            planning.plan_here(package, values, None, said.append)
        assert raised.value.exit_code == code
        assert [str(problem) for problem in raised.value.problems] == problems[-1:]


TRIALS = ["-p", 'trials=[{"learning_rate": 1e-5}, {"lora_r": "8"}]', "-p", "parallelism=2"]


def test_a_sweep_is_submitted_by_its_name(kfp_server, finetune, tmp_path):
    file = tmp_path / "run.yaml"  # the file of a single run
    file.write_text("pipeline: chat_completion\nmax_steps: 8\nnum_train_epochs: 2\n")
    done = finetune("submit", "chat-completion-sweep", *given(), "-f", file, *TRIALS, "--sweep-name", "rates")
    assert done.code == 0, done.err
    parameters = sent(kfp_server)
    assert parameters["trials"] == [{"learning_rate": 1e-5}, {"lora_r": "8"}]
    assert (parameters["parallelism"], parameters["sweep_name"], parameters["max_steps"]) == (2, "rates", 8)
    assert parameters["train_file_path"] == GIVEN["train_file_path"]
    assert [one["name"] for one in kfp_server.pipelines.values()] == ["chat-completion-sweep"]
    assert len(kfp_server.specs) == 1


def test_a_configuration_file_may_have_the_trials_and_the_name_of_the_sweep(kfp_server, finetune, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("pipeline: chat_completion_sweep\ntrials:\n- {learning_rate: 1e-5}\n- {precision: 16, seed: 7}\n")
    done = finetune("submit", "-f", file, *given())
    assert done.code == 0, done.err
    assert sent(kfp_server)["trials"] == [{"learning_rate": 1e-5}, {"precision": "16", "seed": 7}]


@pytest.mark.parametrize(
    ("trials", "codes"),
    [
        ("[]", ["SWEEP-E0201"]),
        ('{"lora_r": 8}', ["PARAM-E0103"]),
        ("[1]", ["PARAM-E0103"]),
        ('[{"lora_r": 0}, {"lora_rank": 8}, {"gate_metric": "loss"}]', ["SWEEP-E0203", "PARAM-E0103", "PARAM-E0101"]),
        ('[{"load_in_4bit": true, "load_in_8bit": true}]', ["PARAM-E0276 trial 0", "PARAM-E0278"]),
        ('[{"registered_model_name": "hf_' + "a" * 34 + '"}]', ["PARAM-E0302"]),
        ('[{"lora_r": "{{$.inputs}}"}]', ["PARAM-E0301"]),
    ],
)
def test_wrong_trials_are_told_with_their_number_and_nothing_is_sent(kfp_server, finetune, trials, codes):
    done = finetune("submit", "chat_completion_sweep", *given(), "-p", f"trials={trials}")
    assert done.code in (2, 3)
    told = " ".join(done.problem["problems"])
    assert all(code in told for code in codes), told
    assert kfp_server.requests == []


def test_a_sweep_is_uploaded_scheduled_and_described_by_its_name(kfp_server, finetune):
    assert finetune("upload", "text_classification_sweep").code == 0
    assert finetune("upload", "translation_sweep").code == 0  # compiled for no one else
    done = finetune("schedule", "chat_completion_sweep", *given(), *TRIALS, "--every", "6h")
    assert done.code == 0, done.err
    names = [one["name"] for one in kfp_server.pipelines.values()]
    assert names == ["text-classification-sweep", "translation-sweep", "chat-completion-sweep"]
    assert "trials (list) = []" in finetune("describe", "chat_completion_sweep").out
    assert "sweep" not in finetune("list").out
    wrong = finetune("submit", "adapter_tools_sweep", *given())
    assert wrong.code == 2
    here = finetune("run", "chat_completion_sweep", *GIVEN)
    assert "finetune sweep chat_completion" in here.problem["fix"]


@pytest.mark.parametrize(("behind", "gate"), [("SUCCEEDED", "passed"), ("SKIPPED", "refused")])
def test_the_gate_of_a_sweep(kfp_server, finetune, behind, gate):
    done = {"plan": "SUCCEEDED", "trial": "SUCCEEDED", "evaluate_best": "SUCCEEDED", "condition_1": behind}
    kfp_server.progress = [tasks("SUCCEEDED", **done)]
    told = finetune("submit", "chat_completion_sweep", *given(), *TRIALS, "--gate-exit", "--json")
    assert json.loads(told.out)["gate"] == gate
    assert told.code == (0 if gate == "passed" else 7)
