"""Where a Kubeflow Pipelines installation is, and how one logs in to it."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steps.errors import Problem, SecurityRefusal, UserError, shown
from steps.params.secrets import secret_in

ENDPOINT = "KF_PIPELINES_ENDPOINT"  # kfp's own variables
UI_ENDPOINT = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN_IN_POD = Path("/var/run/secrets/kubeflow/pipelines/token")  # where kfp looks for one
TOKEN = "KF_PIPELINES_TOKEN"  # ours: kfp has no variable for a token
INSTALLED_IN = "kubeflow"  # the namespace of the installation, where kfp's client looks for it in a cluster


@dataclass(frozen=True)
class Connection:
    """How to reach an installation; what is empty comes from kfp's environment and ~/.config/kfp/context.json."""

    endpoint: str = ""
    """Address of KFP's API or user interface."""
    namespace: str = ""
    """Namespace of the user's runs, in an installation for several users; empty: none, or kfp's own setting."""
    token: str = ""
    """Bearer token; empty: KF_PIPELINES_TOKEN, or the file that KF_PIPELINES_SA_TOKEN_PATH names."""
    ca_cert: str = ""
    """File with the certificates of the authority that signed the server's; empty: SSL_CERT_FILE, or the usual ones."""
    verify: bool = True
    """Whether the server's certificate is checked."""
    kube_context: str = ""
    """Context of the kubeconfig file, for asking Kubernetes about the pods of a run; empty: the current one."""


@dataclass(frozen=True)
class Server:
    """An installation that answered."""

    client: Any
    """kfp.Client."""
    connection: Connection
    endpoint: str
    """Its address; empty if kfp's client found it in the cluster or through kubeconfig."""
    ui: str
    """Address of the user interface, in front of /#/runs/details/…"""

    @property
    def namespace(self) -> str | None:
        """The namespace of the user's runs; None in an installation for one user."""
        return self.client.get_user_namespace() or None

    def page(self, path: str) -> str:
        """Return the address of a page of the user interface."""
        return f"{self.ui}/#/{path}"


def connect(connection: Connection | None = None, **settings: Any) -> Server:
    """Return the installation that a Connection, or the same settings by name, or kfp's environment describe.

    Asks it for its health. Raises UserError or Outage, with what to do, if it does not answer as KFP does.
    """
    wanted = connection or Connection(**settings)
    endpoint = _endpoint(wanted)
    from pipelines.client.guarded import GuardedClient

    arguments = _arguments(wanted, endpoint)
    with quiet():
        try:
            client = GuardedClient(**arguments)
        except (ValueError, KeyError, TypeError, OSError) as error:  # of kfp's own configuration
            raise UserError(
                Problem("CLIENT-E0118", "~/.config/kfp", f"{type(error).__name__}: {error}", "a configuration of kfp "
                        "that can be read", "correct or delete context.json and credentials.json there")
            ) from error  # fmt: skip
        client.guard()
        if wanted.namespace:
            client.use_namespace(wanted.namespace)
        health = client.get_kfp_healthz()
    if health.multi_user and not client.get_user_namespace():
        raise UserError(
            Problem("CLIENT-E0101", "--namespace", "none", "the namespace of your runs", "add --namespace NAME",
                    why="this installation has several users")
        )  # fmt: skip
    ui = os.environ.get(UI_ENDPOINT) or endpoint or "/pipeline"
    return Server(client, wanted, endpoint, (ui if ui.startswith(("http", "/")) else f"http://{ui}").rstrip("/"))


def connected(server: Server | Connection | None) -> Server:
    """Return a server, or connect as a Connection, or kfp's environment, say."""
    return server if isinstance(server, Server) else connect(server)


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what kfp's client prints and warns of to itself: our commands say the same once."""
    import logging

    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _endpoint(wanted: Connection) -> str:
    """Return the address; empty if kfp's client can find it itself. Raises UserError for none, or one that is none."""
    endpoint = (wanted.endpoint or os.environ.get(ENDPOINT, "")).strip().rstrip("/")
    where = "--endpoint" if wanted.endpoint else ENDPOINT
    if not endpoint:
        if "KUBERNETES_SERVICE_HOST" in os.environ or _kubeconfig():
            return ""
        raise UserError(
            Problem("CLIENT-E0102", "--endpoint", f"none, and no {ENDPOINT}", "the address of Kubeflow Pipelines",
                    "add --endpoint https://…")
        )  # fmt: skip
    if kind := secret_in(endpoint):
        raise SecurityRefusal(Problem("CLIENT-E0301", where, kind, "an address without a secret",
                                      f"give the token by {TOKEN}", why="the address is printed"))  # fmt: skip
    endpoint = endpoint.removesuffix("/#").split("/#/")[0].removesuffix("/apis/v2beta1").rstrip("/")
    whole = endpoint if "://" in endpoint else f"https://{endpoint}"  # as kfp's client does
    try:
        parts = urlsplit(whole)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.netloc.endswith(":")
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in whole):
        raise UserError(
            Problem("CLIENT-E0103", where, shown(endpoint), "an address such as https://kubeflow.example.com/pipeline",
                    "correct it")
        )  # fmt: skip
    return whole


def _kubeconfig() -> bool:
    files = os.environ.get("KUBECONFIG", str(Path("~/.kube/config").expanduser())).split(os.pathsep)
    return any(Path(file).is_file() for file in files if file)


def _arguments(wanted: Connection, endpoint: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {"host": endpoint or None, "namespace": INSTALLED_IN}
    if wanted.kube_context:
        arguments["kube_context"] = wanted.kube_context
    if not wanted.verify:
        arguments["verify_ssl"] = False
    if authority := wanted.ca_cert or os.environ.get("SSL_CERT_FILE", ""):
        _refuse_missing("--ca-cert" if wanted.ca_cert else "SSL_CERT_FILE", authority)
        arguments["ssl_ca_cert"] = authority
    return arguments | _login(wanted)


def _login(wanted: Connection) -> dict[str, Any]:
    token = (wanted.token or os.environ.get(TOKEN, "")).strip()
    if any(not character.isprintable() or character.isspace() or not character.isascii() for character in token):
        raise UserError(
            Problem("CLIENT-E0104", "--token" if wanted.token else TOKEN, "a blank or a character that is not ASCII",
                    "one token", "give the token alone")
        )  # fmt: skip
    if token:
        return {"existing_token": token}
    file = os.environ.get(TOKEN_FILE, "")
    if file or TOKEN_IN_POD.is_file():
        _refuse_missing(TOKEN_FILE, file or str(TOKEN_IN_POD))
        from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _refuse_missing(where: str, file: str) -> None:
    try:
        with open(file, "rb") as opened:
            opened.read(1)
    except OSError as error:
        found = f"{file!r}: {error.strerror}"
        raise UserError(Problem("CLIENT-E0105", where, found, "a file that can be read", "correct the path")) from None
