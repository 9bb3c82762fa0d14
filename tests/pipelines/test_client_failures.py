"""Each way in which a connection to KFP fails ends with a line that says what to do, and with 2 or 4."""

import socket
import ssl
import subprocess
import threading

import pytest
from kfp_server import KfpServer

ANSWERS = {
    400: (2, "CLIENT-E0206"),
    401: (2, "CLIENT-E0202"),
    403: (2, "CLIENT-E0203"),
    404: (2, "CLIENT-E0204"),
    409: (2, "CLIENT-E0205"),
    418: (2, "CLIENT-E0206"),
    429: (4, "CLIENT-E0402"),
    500: (4, "CLIENT-E0402"),
    502: (4, "CLIENT-E0402"),
    503: (4, "CLIENT-E0402"),
    504: (4, "CLIENT-E0402"),
}


@pytest.mark.parametrize("status", ANSWERS)
@pytest.mark.parametrize("where", ["GET healthz", "GET runs"])
def test_an_answer_that_is_an_error(kfp_server, finetune, status, where):
    kfp_server.fail[where] = (status, "the server's own words", {})
    done = finetune("runs")
    code, problem = ANSWERS[status]
    assert done.code == code
    assert problem in done.problem["problems"][0]
    assert "the server's own words" in done.problem["found"]
    assert str(status) in done.problem["found"]
    assert done.problem["retryable"] == (code == 4)
    assert done.problem["fix"]


@pytest.mark.parametrize(
    ("told", "headers", "status"),
    [
        (b"<html><body>Log in</body></html>", {"Content-Type": "text/html"}, 200),
        (b"ok", {"Content-Type": "text/plain"}, 200),
        (b"<html>found</html>", {"Location": "https://login.example.com/?next=secret"}, 302),
        (b"", {"Location": "/dex/auth"}, 307),
    ],
    ids=["page", "text", "login elsewhere", "login here"],
)
def test_a_server_that_is_not_kfp(kfp_server, finetune, told, headers, status):
    kfp_server.fail["GET"] = (status, told, headers)
    done = finetune("runs")
    assert done.code == 2
    assert "CLIENT-E0201" in done.err
    assert "secret" not in done.err
    assert "token" in done.problem["fix"]


def test_a_page_of_html_in_an_error_is_not_shown(kfp_server, finetune):
    kfp_server.fail["GET"] = (502, b"<html><h1>Bad Gateway</h1></html>", {"Content-Type": "text/html"})
    done = finetune("runs")
    assert done.code == 4
    assert "<h1>" not in done.err


def test_nobody_listens(kfp_server, finetune):
    kfp_server.close()
    done = finetune("runs")
    assert (done.code, done.problem["class"]) == (4, "Outage")
    assert "refused" in done.problem["found"]


@pytest.mark.parametrize(("number", "code"), [(socket.EAI_NONAME, 2), (socket.EAI_NODATA, 2), (socket.EAI_AGAIN, 4)])
def test_a_name_without_a_host(kfp_server, finetune, monkeypatch, number, code):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    done = finetune("runs", "--endpoint", "http://kubeflow.invalid")
    assert done.code == code
    assert "kubeflow.invalid" in done.err


def test_no_answer_in_time(kfp_server, finetune, monkeypatch):
    from pipelines.client import guarded

    monkeypatch.setattr(guarded, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = finetune("runs", "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert done.code == 4
    assert "no answer within" in done.problem["found"]


def test_a_connection_that_breaks_off(kfp_server, finetune):
    def hang_up(listening: socket.socket) -> None:
        while True:
            try:
                listening.accept()[0].close()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=hang_up, args=(listening,), daemon=True).start()
        done = finetune("runs", "--endpoint", f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert (done.code, done.problem["class"]) == (4, "Outage")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days",
         "2", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.fixture
def tls_server(certificate, kfp_server):
    server = KfpServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    yield server
    server.close()


def test_a_certificate_that_is_not_trusted(tls_server, certificate, finetune):
    done = finetune("runs", "--endpoint", tls_server.url)
    assert done.code == 2
    assert "CLIENT-E0209" in done.err
    assert "--ca-cert" in done.problem["fix"]
    assert finetune("runs", "--endpoint", tls_server.url, "--ca-cert", certificate[0]).code == 0
    assert finetune("runs", "--endpoint", tls_server.url, "--no-verify-tls").code == 0


def test_the_certificates_of_the_environment_are_used(tls_server, certificate, finetune, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert finetune("runs", "--endpoint", tls_server.url).code == 0


def test_tls_where_the_server_has_none(kfp_server, finetune):
    done = finetune("runs", "--endpoint", kfp_server.url.replace("http:", "https:"))
    assert done.code == 2
    assert "http://" in done.problem["fix"]


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--endpoint", "ftp://x"], 2, "CLIENT-E0103"),
        (["--endpoint", "http://"], 2, "CLIENT-E0103"),
        (["--endpoint", "http://a b"], 2, "CLIENT-E0103"),
        (["--endpoint", "http://here:port"], 2, "CLIENT-E0103"),
        (["--endpoint", "http://here:99999"], 2, "CLIENT-E0103"),
        (["--endpoint", "http://me:pa55word@here"], 3, "CLIENT-E0301"),
        (["--ca-cert", "no-such-file"], 2, "CLIENT-E0105"),
        (["--token", "two words"], 2, "CLIENT-E0104"),
        (["--token", "line\nX-Evil: 1"], 2, "CLIENT-E0104"),
        (["--experiment", "none"], 2, "CLIENT-E0116"),
    ],
)
def test_wrong_options(kfp_server, finetune, words, code, problem):
    done = finetune("runs", *words)
    assert done.code == code
    assert problem in done.err
    assert "pa55word" not in done.err


def test_no_endpoint_at_all(kfp_server, finetune, monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = finetune("runs")
    assert (done.code, kfp_server.requests) == (2, [])
    assert "KF_PIPELINES_ENDPOINT" in done.err


@pytest.mark.parametrize("way", ["option", "variable", "file"])
def test_a_token_is_sent(kfp_server, finetune, monkeypatch, tmp_path, way):
    kfp_server.token = "abc.def"
    assert finetune("runs").code == 2
    words: list[str] = []
    if way == "option":
        words = ["--token", "abc.def"]
    elif way == "variable":
        monkeypatch.setenv("KF_PIPELINES_TOKEN", " abc.def\n")
    else:
        (tmp_path / "token").write_text("abc.def")
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert finetune("runs", *words).code == 0


def test_several_users_need_a_namespace(kfp_server, finetune):
    kfp_server.multi_user = True
    done = finetune("runs")
    assert (done.code, done.problem["where"]) == (2, "--namespace")
    assert finetune("runs", "--namespace", "kubeflow").code == 0
    assert finetune("runs", "--namespace", "team").code == 0
    asked = [body["query"].get("namespace") for body in kfp_server.asked("GET runs")]
    assert asked == ["kubeflow", "team"]


@pytest.mark.parametrize("tail", ["/", "/#/runs", "/apis/v2beta1"])
def test_an_address_from_the_browser_works(kfp_server, finetune, tail):
    assert finetune("runs", "--endpoint", kfp_server.url + tail).code == 0
