"""`finetune schedule` and `finetune runs`."""

import json

import pytest
from kfp_server import tasks
from kubeflow import given

pytestmark = pytest.mark.usefixtures("kfp_server", "compiled_once")


def test_a_schedule_is_enabled_without_catch_up_and_one_at_a_time(kfp_server, finetune):
    done = finetune("schedule", "chat_completion", *given(), "--cron", "0 30 6 * * 1-5", "--name", "mornings",
                    "-p", "learning_rate=1e-4")  # fmt: skip
    assert done.code == 0, done.err
    (made,) = kfp_server.asked("POST recurringruns")
    body = made["body"]
    assert body["mode"] == "ENABLE"
    assert body["no_catchup"] is True
    assert int(body["max_concurrency"]) == 1
    assert body["trigger"]["cron_schedule"]["cron"] == "0 30 6 * * 1-5"
    assert body["display_name"] == "mornings"
    parameters = body["runtime_config"]["parameters"]
    assert parameters["learning_rate"] == 1e-4
    assert type(parameters["max_steps"]) is int
    assert parameters["apply_lora"] is False
    assert "ENABLED" in done.out
    assert "/#/recurringrun/details/" in done.out


@pytest.mark.parametrize(
    ("words", "trigger"),
    [
        (["--every", "6h"], {"interval_second": "21600"}),
        (["--every", "30m"], {"interval_second": "1800"}),
        (["--every", "1d"], {"interval_second": "86400"}),
        (["--every", "90"], {"interval_second": "90"}),
        (["--cron", "30 6 * * *"], {"cron": "0 30 6 * * *"}),
        (["--cron", "@daily"], {"cron": "@daily"}),
        (["--cron", "0 0 9 ? * MON-FRI"], {"cron": "0 0 9 ? * MON-FRI"}),
        (["--cron", "0 */15 * * * *"], {"cron": "0 */15 * * * *"}),
    ],
)
def test_times(kfp_server, finetune, words, trigger):
    done = finetune("schedule", "chat_completion", *given(), *words)
    assert done.code == 0, done.err
    (made,) = kfp_server.asked("POST recurringruns")
    (schedule,) = made["body"]["trigger"].values()
    assert {key: str(value) for key, value in schedule.items()} == trigger


@pytest.mark.parametrize(
    "words",
    [[], ["--cron", "@daily", "--every", "1h"], ["--every", "10s"], ["--every", "soon"], ["--every", "-5m"],
     ["--cron", "often"], ["--cron", "0 0 25 * * *"], ["--cron", "61 * * * * *"], ["--cron", "* * *"],
     ["--cron", "0 0 6 * * 8"], ["--cron", "0 0 6 0 * *"], ["--cron", "0 0 6 * * * 2026"], ["--cron", "; rm x * * *"]],
)  # fmt: skip
def test_wrong_times_are_refused_before_anything_is_sent(kfp_server, finetune, words):
    done = finetune("schedule", "chat_completion", *given(), *words)
    assert (done.code, kfp_server.requests) == (2, [])
    assert done.problem["where"].startswith("--")


def test_parameters_are_checked_as_those_of_a_run(kfp_server, finetune):
    done = finetune("schedule", "chat_completion", *given(), "--every", "1h", "-p", "lora_r=0")
    assert (done.code, kfp_server.requests) == (2, [])
    secret = finetune("schedule", "chat_completion", *given(), "--every", "1h", "--name", "hf_" + "a" * 34)
    assert secret.code == 3


def test_schedules_are_listed_paused_resumed_and_deleted(kfp_server, finetune):
    assert finetune("schedule", "list").code == 0
    for name in ("a", "b"):
        assert finetune("schedule", "chat_completion", *given(), "--every", "6h", "--name", name).code == 0
    (first, second) = kfp_server.schedules.values()
    listed = finetune("schedule", "list").out
    assert "every 6h" in listed
    assert finetune("schedule", "pause", "a").code == 0
    assert (first["status"], second["status"]) == ("DISABLED", "ENABLED")
    assert "DISABLED" in finetune("schedule", "list").out
    assert finetune("schedule", "resume", first["recurring_run_id"]).code == 0
    assert first["status"] == "ENABLED"
    assert finetune("schedule", "delete", "b").code == 0
    assert list(kfp_server.schedules.values()) == [first]
    unknown = finetune("schedule", "delete", "c")
    assert unknown.code == 2
    assert "CLIENT-E0115" in unknown.err


def test_a_name_that_is_taken_is_refused(kfp_server, finetune):
    words = ["schedule", "chat_completion", *given(), "--every", "6h"]
    assert finetune(*words).code == 0
    done = finetune(*words)
    assert (done.code, done.problem["where"]) == (2, "--name")
    (made,) = kfp_server.schedules.values()
    kfp_server.schedules["other"] = {**made, "recurring_run_id": "other"}
    both = finetune("schedule", "pause", made["display_name"])
    assert both.code == 2
    assert "other" in both.problem["fix"]


def test_many_schedules_are_read_page_by_page(kfp_server):
    from pipelines.client import schedules

    for number in range(230):
        kfp_server.schedules[str(number)] = {"recurring_run_id": str(number), "display_name": f"s{number}"}
    assert len(schedules()) == 230
    assert len(kfp_server.asked("GET recurringruns")) == 3


def test_recent_runs_with_state_and_gate(kfp_server, finetune):
    for name in ("one", "two", "three"):
        assert finetune("submit", "chat_completion", *given(), "--run-name", name, "--experiment", name).code == 0
    looks = [
        tasks("SUCCEEDED", evaluate="SUCCEEDED", condition_1="SUCCEEDED"),
        tasks("SUCCEEDED", evaluate="SUCCEEDED", condition_1="SKIPPED"),
        tasks("FAILED", plan="FAILED"),
    ]
    for run, look in zip(kfp_server.runs.values(), looks, strict=True):
        run.update(look)
    done = finetune("runs")
    assert done.code == 0, done.err
    head, *rows = done.out.splitlines()
    assert head.split() == ["run", "created", "state", "gate", "address"]
    assert [row.split()[0] for row in rows] == ["three", "two", "one"]
    assert "passed" in rows[2]
    assert "refused" in rows[1]
    assert len(finetune("runs", "--limit", "1").out.splitlines()) == 2
    assert [run["name"] for run in json.loads(finetune("runs", "--json", "--experiment", "two").out)] == ["two"]


def test_recent_runs_in_python(kfp_server, finetune):
    from pipelines.client import recent_runs

    assert finetune("submit", "chat_completion", *given(), "--run-name", "<b>one</b>").code == 0
    found = recent_runs(limit=5)
    assert "&lt;b&gt;one&lt;/b&gt;" in found._repr_html_()
    assert "<b>one" not in found._repr_html_()
    assert "<b>one</b>" in str(found)
