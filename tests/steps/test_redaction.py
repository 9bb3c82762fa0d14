"""Credentials in many forms reach no exit of a process: errors, logs, prints, tracebacks, files, reports, MLflow."""

import base64
import hashlib
import io
import json
import logging
import sys
import threading
import time
import urllib.parse
import uuid
from html import escape, unescape

import pytest

from pipelines.cli import main
from pipelines.runs import run, screen
from steps import outcome
from steps.errors import Problem, UserError, shown
from steps.params.registration import TrackingParams
from steps.params.secrets import secret_in, without_credentials, without_secrets
from steps.redaction import mask_output, masked, masking
from steps.reports.page import Section, name_version, write_page
from steps.running import log_plainly, reported
from steps.tasks import as_found
from steps.tracking.facts import add_facts
from steps.tracking.tracker import Tracker

LETTERS = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"
KEY = "q8Wz+Jk3/Lm5Np7Rt9Vx1Yb2Cd4Ef6Gh8Ij0Kl/=="
PEM = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
OPAQUE, PASSWORD = "opaque1234x5678y", "p4ssW0rd"
# A text that someone else may put into an error → the part of it that nobody may read.
PLANTED = {
    f"hf_{LETTERS[:34]}": LETTERS[:34],
    f"ghp_{LETTERS[:36]}": LETTERS[:36],
    f"github_pat_{LETTERS}": LETTERS,
    f"glpat-{LETTERS[:20]}": LETTERS[:20],
    f"glrt-{LETTERS[:20]}": LETTERS[:20],
    "AKIA" + "Q7" * 8: "Q7" * 8,
    f"aws_secret_access_key={KEY}": KEY[:40],
    f"AWS_SESSION_TOKEN: {KEY}": KEY[:40],
    f"AIza{LETTERS[:35]}": LETTERS[:35],
    f"GOCSPX-{LETTERS[:28]}": LETTERS[:28],
    f"ya29.{LETTERS}": LETTERS,
    json.dumps({"private_key": f"-----BEGIN PRIVATE KEY-----\n{PEM}\n-----END PRIVATE KEY-----\n"}): PEM,
    f"-----BEGIN RSA PRIVATE KEY-----\n{PEM}\nBKcwggSjAg\n-----END RSA PRIVATE KEY-----": PEM,
    f"abc8Q~{LETTERS[:34]}": LETTERS[:34],
    "https://a.blob.core.windows.net/c/x?sv=2022&sp=r&sig=Ab3%2Fde5fGh7jKl9mNp1qRs3tU5v%3D": "de5fGh7jKl9mNp1qRs3t",
    f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={KEY};EndpointSuffix=core.windows.net": KEY[:40],
    f"Endpoint=sb://x;SharedAccessKeyName=Root;SharedAccessKey={KEY}": KEY[:40],
    f"xoxb-{LETTERS[:30]}": LETTERS[:30],
    f"xapp-1-{LETTERS[:30]}": LETTERS[:30],
    f"https://hooks.slack.com/services/T000/B000/{LETTERS[:24]}": LETTERS[:24],
    f"sk-{LETTERS}": LETTERS,
    f"sk-ant-api03-{LETTERS}": LETTERS,
    f"eyJ{LETTERS[:20]}.{LETTERS[:20]}.{LETTERS[:20]}": LETTERS[:20],
    f"Authorization: Bearer {OPAQUE}": OPAQUE,
    f"-H 'authorization: Basic {KEY}'": KEY[:40],
    f"curl -H 'bearer {OPAQUE}'": OPAQUE,
    f"X-Api-Key: {OPAQUE}": OPAQUE,
    f"http://me:{PASSWORD}@mlflow:5000": PASSWORD,
    f"http://me:p4s@{PASSWORD}@mlflow:5000": PASSWORD,
    f"postgresql+psycopg2://me:p4/{PASSWORD}@db:5432/x?sslmode=require": PASSWORD,
    f"redis://:{PASSWORD}@cache:6379/0": PASSWORD,
    f"host=db user=me password={PASSWORD} dbname=x": PASSWORD,
    f"host=db password='two {PASSWORD}' dbname=x": PASSWORD,
    f"Driver={{X}};Uid=me;Pwd={PASSWORD};": PASSWORD,
    f"me:{PASSWORD}@tcp(db:3306)/x": PASSWORD,
    f"jdbc:mysql://db/x?user=me&password={PASSWORD}": PASSWORD,
    "https://b/k?X-Amz-Credential=C&X-Amz-Signature=3f7ab9c0d1e2f3a4b5": "3f7ab9c0d1e2f3a4b5",
    "https://b/k?X-Amz-Security-Token=FwoGZXIvYXdzEBYa": "FwoGZXIvYXdzEBYa",
    "https://b/k?X-Goog-Signature=3f7ab9c0d1e2f3a4b5": "3f7ab9c0d1e2f3a4b5",
    "https://b/k?AWSAccessKeyId=x&Signature=abc%2BdefGHI9": "defGHI9",
    f'{{"password": "{PASSWORD}", "x": 1}}': PASSWORD,
    f'{{"password": "with \\" mark {PASSWORD}"}}': PASSWORD,
    f"{{'api_key': '{OPAQUE}', 'x': 1}}": OPAQUE,
    f"client_secret: {OPAQUE}": OPAQUE,
    f"password: |\n  {PASSWORD}": PASSWORD,
    f"MLFLOW_TRACKING_TOKEN={OPAQUE}": OPAQUE,
    f"export MLFLOW_TRACKING_PASSWORD={PASSWORD}": PASSWORD,
    f"--hf-token {OPAQUE}": OPAQUE,
    f"['x', '--token', '{OPAQUE}']": OPAQUE,
    f"https://api/x?access_token={OPAQUE}&y=1": OPAQUE,
    f"('password', '{OPAQUE}')": OPAQUE,
    json.dumps([{"name": "HF_TOKEN", "value": OPAQUE}]): OPAQUE,
    f"- name: HF_TOKEN\n  value: {OPAQUE}": OPAQUE,
    f"<SecretAccessKey>{KEY}</SecretAccessKey>": KEY[:40],
    f"<td>password</td><td>{OPAQUE}</td>": OPAQUE,
    f"cursor.execute(password=b'{OPAQUE}')": OPAQUE,
    f"{{'secretAccessKey': '{KEY}'}}": KEY[:40],
    f"ANY_NAME_OF_A_TOKEN={OPAQUE}": OPAQUE,
    f"hvs.{LETTERS[:24]}": LETTERS[:24],
    f"npm_{LETTERS[:36]}": LETTERS[:36],
    f"1//0{LETTERS}": LETTERS,
    f"user:{PASSWORD}@db.example.com:5432/x": PASSWORD,
}
HEX = LETTERS.lower().translate(str.maketrans("ghijklmnopqrstuvwxyz", "0123456789abcdef0123"))
# Known by a word some way before them, or by a sign or a word that is no "=".
PLANTED |= {
    f"machine api.wandb.ai\n  login user\n  password {'staple' * 3}": "staple" * 3,
    f"curl -u me:{PASSWORD} https://x": PASSWORD,
    f"requests.get(x, auth=('me', '{PASSWORD}'))": PASSWORD,
    f"AzureNamedKeyCredential('me', '{KEY}')": KEY[:40],
    f"('AKIA{'Q7' * 8}', '{KEY[:40]}')": KEY[:40],
    f"wandb.login(key='{HEX}')": HEX,
    f"fs.azure.account.key.me.dfs.core.windows.net={KEY}": KEY[:40],
    f"client-key-data: {KEY[:40]}": KEY[:40],
    f"Private-Lines: 1\n{LETTERS}\nPrivate-MAC: 1": LETTERS,
    f'{{"auths": {{"x.io": {{"auth": "{base64.b64encode(b"me:pass").decode()}12"}}}}}}': base64.b64encode(
        b"me:pass"
    ).decode()[:9],
    f'<add key="password" value="{PASSWORD}"/>': PASSWORD,
    f"if password == '{PASSWORD}'": PASSWORD,
    f"password := {PASSWORD}": PASSWORD,
    f"password -> {PASSWORD}": PASSWORD,
    f"password: !!str {PASSWORD}": PASSWORD,
    f"|password|{PASSWORD}|": PASSWORD,
    f"the password is {PASSWORD}": PASSWORD,
    f"password {PASSWORD}": PASSWORD,
    f"MYSQL_PWD={PASSWORD}": PASSWORD,
    f"DB_PASS={PASSWORD}": PASSWORD,
    f"https://h/x?token={'staple' * 3}": "staple" * 3,
    f"('Authorization', 'Bearer {'staple' * 2}')": "staple" * 2,
    f"xoxd-{LETTERS}": LETTERS,
    f"hf_oauth_{LETTERS}": LETTERS,
    f"lsv2_pt_{HEX}": HEX,
}
AROUND = {
    "alone": lambda text: text,
    "in words": lambda text: f"could not read {text}: refused",
    "as a value": lambda text: f"x={text}",
    "in a URI": lambda text: urllib.parse.quote(text, safe=""),
    "in JSON": lambda text: json.dumps({"a": [text]}),
    "in a string of JSON": lambda text: json.dumps(json.dumps({"a": text})),
    "as Python shows it": repr,
    "on a line of its own": lambda text: f"one\n{text}\nthree",
    "as a key": lambda text: str({text: 1}),
    "as bytes": lambda text: repr(text.encode()),
    "in HTML": escape,
    "in a form": urllib.parse.quote_plus,
    "in JSON of other languages": lambda text: strange(json.dumps(text)),
}


def strange(text: str) -> str:
    return text.replace("/", "\\/").replace("-", "\\u002d").replace("=", "\\u003d")


def holds(told: str, secret: str) -> bool:
    text = json.dumps(secret)[1:-1]
    return any(
        form in told for form in (secret, urllib.parse.quote(secret, safe=""), text, strange(text), escape(secret))
    )


def everywhere():
    return [(around(text), secret) for text, secret in PLANTED.items() for around in AROUND.values()]


@pytest.mark.parametrize("around", AROUND)
def test_no_form_of_a_credential_is_told(around):
    leaks = []
    for text, secret in PLANTED.items():
        planted = AROUND[around](text)
        assert holds(planted, secret)  # a secret that is not planted cannot be found
        told = without_credentials(planted)
        assert without_credentials(told) == told
        forms = [told, masked({planted: [planted]}), as_found(planted), shown(planted)]
        forms += [without_credentials(f"{planted[: planted.rfind(text[-4:]) + 1]}…")]
        leaks += [(planted, form) for form in map(str, forms) if holds(form, secret)]
    assert leaks == []


@pytest.mark.parametrize(
    "text",
    ["hf://gpt2@main", "hf://org/name@0123abc", "abfss://c@account.dfs.core.windows.net/x", "s3://b/k@2?x=1",
     "/data/task-oriented-dialogue-systems-2/x.jsonl", "pad_token='</s>' eos_token: <|im_end|>", "hf_transfer",
     "http://host:8080/path@x", "/home/me@example.com/x", "basic characteristics of bearer bonds", "PWD=/home/x",
     "signature=ModelSignature(inputs)", "max_tokens: 12, token: 3", "password=None, x", "--hf-token-secret name",
     "set MLFLOW_TRACKING_PASSWORD", "label_key: found", "docker.io/a/b:1@sha256:0123abcd", "api_key=$API_KEY",
     '{"password": "", "x": 1}', "docker://ubuntu:Jammy22", "http://host:port/x", "docker run -u 1000:1000",
     "the password is wrong", "password, token and key", "auth=('me', password)",
     "first pass: 12 rows of 3", "author=Me12, authority: x9", "s3://bucket/a+b%20c", "models:/name:Version2"],
)  # fmt: skip
def test_what_is_no_credential_is_told_as_it_is(text):
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a", "A", "=", "\\", " ", "%", "@", "://", "://a:b", "a:b@", "hf_", "eyJ", "eyJaaaaaaaa.", "sk-", "sk-a-", "gl",
     "8Q~", "password=", 'password="', "password= ", 'token=\\"', "token:", "api_key: |\n ", "--token ", "bearer ",
     "basic a", "cookie:", "authorization: ", "?sig=", "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "%3A%2F%2Fa%3A",
     "&#64;", "a.b@", "machine a ", "auth('a', ", "wandb ", "-u a:", "akia", "account.key.", "password|", "%20+",
     "-----BEGIN PRIVATE KEY-----|"],
)  # fmt: skip
def test_the_time_grows_only_with_the_length_of_the_text(piece):
    def seconds(length):
        text = piece * (length // len(piece))
        started = time.process_time()
        for clean in (without_credentials, without_secrets):
            clean(text + "@")
        return time.process_time() - started

    seconds(1000)
    assert seconds(80_000) < 20 * seconds(10_000) + 0.1  # a square would be 64 times as long


@pytest.mark.parametrize(
    "text",
    [f"https://{LETTERS}@github.com/x.git", f"https://me:{LETTERS}@github.com/x.git", f"postgres://me:{LETTERS}@db/x",
     f"ghp_{LETTERS[:36]}", f"glpat-{LETTERS[:20]}", f"hvb.{LETTERS}", f"HTTPBasicAuth('me', '{LETTERS}')",
     f"AKIA{'Q7' * 8}:{LETTERS}", f"-----BEGIN PRIVATE KEY-----\n{LETTERS}\n", f"npm_{LETTERS[:36]}"],
)  # fmt: skip
def test_a_text_that_was_cut_tells_no_more_than_the_beginning_of_a_secret(text):
    begins = text.index(LETTERS[:20])
    for end in range(begins + 24, len(text) + 1):
        for cut in (text[:end], f"{text[:end]}…", f"{text[:end]}..."):
            assert LETTERS[:20] not in without_credentials(cut), cut


def test_the_lines_of_a_cut_key_in_the_traceback_of_a_group_are_not_told():
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", PEM, PEM, "MIIEvQ"])
    told = without_credentials("".join(f"  | {line}\n" for line in key.split("\n")) + "  | ready")
    assert PEM not in told
    assert told.endswith("ready")


def test_what_is_shown_to_users_stays():
    digest, commit = hashlib.sha256(b"x").hexdigest(), hashlib.sha1(b"x").hexdigest()
    for text in (
        digest,
        f"sha256:{digest}",
        commit,
        f"{{'digest': '{digest}', 'revision': '{commit}'}}",
        base64.b64encode(b"small data of a test").decode(),
        base64.b64encode(bytes(range(256))).decode(),
        str(uuid.UUID(int=7**40)),
        "PARAM-E0101 learning_rate: found 'x'",
        "s3://bucket/train-00001-of-00002.parquet",
        "models:/chat_completion@champion",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "row-000123456789",
        "http://mlflow:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef",
        "checkpoint-1200/model.safetensors",
        "file:///tmp/pytest-of-root/pytest-0/test_a0/mlflow.db",
        "torch==2.13.0+cpu",
        "2026-11-30T18:37:25.123456Z",
    ):
        assert without_credentials(text) == text
        assert masked({"a": text}) == {"a": text} or "@" in text


VALUES = {"HF_TOKEN": "plainvaluewithoutform", "AWS_SECRET_ACCESS_KEY": "aB/3+dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC",
          "MLFLOW_TRACKING_PASSWORD": 'quo"ted & 1', "MY_SERVICE_KEY": "z9-y8_x7"}  # fmt: skip


def test_values_of_variables_that_are_named_like_secrets_are_told_nowhere(monkeypatch):
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE", f"postgres://me:{PASSWORD}%21@db/x")
    monkeypatch.setenv("SOME_KEY", "short")
    monkeypatch.setenv("OTHER_PASSWORD", "password")
    monkeypatch.setenv("KEY_FILE_TOKEN", "/run/secrets/token")
    for value in (*VALUES.values(), f"{PASSWORD}!"):
        half = len(value) // 2
        for told in (
            value,
            f"x{value}x",
            json.dumps({"a": value}),
            json.dumps(json.dumps([value])),
            repr(value.encode()),
            urllib.parse.quote(value, safe=""),
            escape(value),
            "".join(f"\\u{ord(letter):04x}" for letter in value),
            value.replace("/", "\\/"),
            f"{value[:half]}\n{value[half:]}",
            f"a: {value[:half]}\\\n  {value[half:]}",
            base64.b64encode(value.encode()).decode(),
        ):
            cleaned = without_credentials(told)
            assert cleaned != told
            assert value[-5:] not in unescape(urllib.parse.unquote(cleaned)), told
    for told in ("a short password of /run/secrets/token", "SOME_KEY"):
        assert without_credentials(told) == told


def test_a_secret_in_several_lines_or_pieces_is_not_printed():
    token, out = f"hf_{LETTERS[:34]}", io.StringIO()
    assert LETTERS[20:34] not in without_credentials(f"{token[:20]}\n{token[20:]} is refused")
    stream = masking(out)
    print("password:", PASSWORD, file=stream)
    print("hf_token", f"{OPAQUE}", sep="=", file=stream)
    for letter in f"{token}\nready":
        stream.write(letter)
    lines = ["", "-----BEGIN RSA PRIVATE KEY-----", *[f"MIIE{LETTERS}"] * 3, "Qx8=", "-----END RSA PRIVATE KEY-----"]
    for line in (*lines, "ready again"):
        print(line, file=stream)
    told = out.getvalue()
    assert [one for one in (PASSWORD, OPAQUE, LETTERS[12:34], LETTERS) if one in told] == []
    assert "\nready\n" in told
    assert told.endswith("\nready again\n")


def test_json_stays_json():
    for planted, _ in everywhere():
        for value in (
            {planted: planted},
            {"password": 12345678, "api_key": planted, "b": [planted]},
            {"password": [planted, 1], "token": {"a": planted}, "api_key": []},
        ):
            told = without_credentials(json.dumps(value, indent=1)) + "\n"
            json.loads(without_credentials(json.dumps(value, separators=(",", ":"))))
            try:
                json.loads(told)
            except ValueError:
                pytest.fail(f"{value} is told as {told}")
    assert masked({"password": 12345678, "n": 1, "a": {"name": "MY_TOKEN", "value": "x"}}) == {
        "password": "…", "n": 1, "a": {"name": "MY_TOKEN", "value": "…"},
    }  # fmt: skip


def forced(failure) -> str:
    """Everything that a step which fails like this tells: printed, in the termination message, in its record."""
    with pytest.raises(SystemExit), reported("plan"):
        failure()
    return outcome.TERMINATION_LOG.read_text()


def unexpected(text):
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            raise ValueError(text) from cause
    except ValueError as cause:
        cause.add_note(text)
        raise RuntimeError(f"{text} again") from cause


def user(text):
    raise UserError(Problem("TEST-E0001", text, text, text, text, why=text), resume_from=text)


def service(text):
    raise ConnectionError(text)


def file(text):
    raise PermissionError(13, "no", text)


@pytest.mark.parametrize("fails", [unexpected, user, service, file])
def test_200_forced_failures_tell_no_credential(fails, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outcome, "TERMINATION_LOG", tmp_path / "termination")
    monkeypatch.setenv("STEP_RECORDS", str(tmp_path))
    outcome.TERMINATION_LOG.touch()
    for planted, secret in everywhere()[::13]:
        message = forced(lambda planted=planted: fails(planted))
        (recorded,) = tmp_path.glob("*-plan.json")
        told = capsys.readouterr()
        for place in (message, recorded.read_text("utf-8"), told.out, told.err):
            assert not holds(place.replace("\n\x1e", "\n"), secret), planted
        assert "plan ended" in message
        assert told.err
        recorded.unlink()


def test_whatever_is_printed_passes_the_filter(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(logging.getLogger("finetune"), "handlers", [])
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    log_plainly()
    mask_output()  # once more changes nothing
    assert masking(sys.stdout) is sys.stdout
    library = logging.getLogger("a.library")
    library.addHandler(handler := logging.StreamHandler())
    for planted, secret in everywhere()[::7]:
        logging.getLogger("finetune").info("read %s", planted)
        library.warning("read %s", planted)
        print(planted)
        print(planted, file=sys.stderr)
        sys.stdout.writelines([planted, "\n"])
        failing = threading.Thread(target=unexpected, args=(planted,))
        failing.start()
        failing.join()
        assert not holds(out.getvalue(), secret), planted
        assert not holds(err.getvalue(), secret), planted
        for stream in (out, err):
            stream.seek(0)
            assert stream.truncate() == 0
    library.removeHandler(handler)
    print("ready")
    assert out.getvalue() == "ready\n"


def test_reports_and_the_registered_version_in_them(tmp_path):
    for planted, secret in everywhere()[::9]:
        page, named = tmp_path / "page.html", tmp_path / "named.html"
        write_page(page, planted, [Section("data", planted, missing=planted)], {})
        assert "<title>" in page.read_text("utf-8")
        page.write_text(page.read_text("utf-8") + "<!-- the registered version -->")
        name_version(page, named, planted)
        assert not holds(unescape(named.read_text("utf-8")), secret), planted


def test_parameters_and_tags_in_mlflow(monkeypatch):
    sent = []

    class Client:
        def get_run(self, run_id):
            return type("Run", (), {"data": type("Data", (), {"params": {}})})

        def log_batch(self, run_id, params=(), tags=()):
            sent.extend((one.key, one.value) for one in (*params, *tags))

    monkeypatch.setattr(Tracker, "_put", lambda self, record: sent.append(record))
    tracker = Tracker(TrackingParams(), "run")
    assert not holds(
        str(vars(Tracker(TrackingParams(), *everywhere()[0][:1], {"a": f"hf_{LETTERS}"}).store.run)), LETTERS
    )
    for planted, secret in everywhere()[::13]:
        tracker.parameters({"nested": {planted: planted}, "of": [planted]})
        tracker.tag({"told": planted})
        add_facts(Client(), "1", {"system": planted}, {"reason": planted}, None)
        assert len(sent) >= 4
        assert not holds(str(sent), secret), planted
        sent.clear()


def test_the_password_of_the_tracking_server_is_in_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:9")
    asked = {"train_file_path": "/nowhere.jsonl", "pytorch_model_path": "/nowhere"}
    result = run("text_generation", asked, tmp_path, cache=False, quiet=True)
    assert result["status"] == "failed"
    assert result["tracking_uri"] == "http://***@127.0.0.1:9"
    (written,) = tmp_path.glob("*/result.json")
    assert PASSWORD not in written.read_text("utf-8") + screen(result)


@pytest.mark.parametrize(
    "value",
    ["https://b/k?X-Amz-Signature=3f7ab9c0d1e2", "https://b/k?a=1&sig=Ab3%2Fde5fGh7jKl9mN", f"AccountKey={KEY}",
     f"Bearer {OPAQUE}", f"redis://:{PASSWORD}@host", f"glrt-{LETTERS[:20]}", f"xapp-1-{LETTERS[:30]}",
     f"GOCSPX-{LETTERS[:28]}", f"abc8Q~{LETTERS[:34]}", f"npm_{LETTERS[:36]}"],
)  # fmt: skip
def test_a_parameter_with_a_credential_is_refused(value):
    assert secret_in(value)
    assert secret_in({"a": [f"x {value}"]})


def told_by(words, monkeypatch, capsys):
    """Everything that a command prints which is refused."""
    monkeypatch.setattr(sys, "argv", ["finetune", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (2, 3), words
    told = capsys.readouterr()
    return told.out + told.err


TOKENS = {f"hf_{LETTERS[:34]}": LETTERS[:34], f"http://me:{PASSWORD}@host/x": PASSWORD, f"api_key={OPAQUE}": OPAQUE}


@pytest.mark.parametrize("planted", TOKENS)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_commands_with_mistyped_parameters_tell_no_secret(planted, json_flag, monkeypatch, capsys, tmp_path):
    sweep, experiment = tmp_path / "sweep.yaml", tmp_path / "experiment.yaml"
    sweep.write_text(
        json.dumps({"pipeline": "chat_completion", "sweep": {"grid": {planted: [planted]}}, planted: planted})
    )
    experiment.write_text(json.dumps({"learning_rat": planted, planted: 3, "password": f"x{planted}"}))
    for words in (
        ["plan", "chat_completion", *json_flag, "-p", f"learning_rate={planted}"],
        ["plan", "chat_completion", *json_flag, "-p", f"learning_rat={planted}"],
        ["plan", "chat_completion", *json_flag, "-p", f"{planted}=3"],
        ["run", "chat_completion", *json_flag, "--root", str(tmp_path), "-p", f"gate_metric={planted}"],
        ["run", planted, *json_flag],
        ["plan", "chat_completion", *json_flag, f"--{planted}"],
        ["plan", "chat_completion", *json_flag, "-f", str(experiment)],
        ["plan", "chat_completion", *json_flag, "-f", planted],
        ["sweep", *json_flag, "-f", str(sweep), "--plan", "--root", str(tmp_path)],
    ):
        told = told_by(words, monkeypatch, capsys)
        assert not holds(told, TOKENS[planted]), words
        if json_flag:
            assert "error" in json.loads(told[: told.rindex("\n}") + 2])


def test_rows_that_are_refused_tell_no_secret(monkeypatch, capsys, tmp_path):
    for planted, secret in everywhere()[::61]:
        data = tmp_path / "train.jsonl"
        rows = [{"messages": [{"role": planted, "content": "x"}]}, {planted: planted},
                {"messages": [{"role": "user", "content": "x", planted: planted}, planted]}]  # fmt: skip
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        told = told_by(["check-data", "chat_completion", "--train", str(data)], monkeypatch, capsys)
        assert "DATA-E" in told
        assert not holds(told, secret), planted


def test_a_root_whose_path_holds_a_secret_is_refused(monkeypatch, capsys, tmp_path):
    told = told_by(["run", "chat_completion", "--root", f"{tmp_path}/hf_{LETTERS[:34]}"], monkeypatch, capsys)
    assert "OUTPUT-E0103" in told
    assert LETTERS[:20] not in told
