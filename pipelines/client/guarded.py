"""kfp's client, with limits of time, and with errors that say who has to act.

Every request of the client goes through one function of its HTTP library, which is replaced here. kfp (2.17) sets no
limit of time, repeats its first request five times at intervals of five seconds, prints tracebacks, and takes a page of
HTML, such as that of a login, for an answer without content.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3
from urllib3 import exceptions

from steps.errors import Outage, Problem, StepError, UserError
from steps.params.secrets import without_secrets

CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
LONGEST_WORDS = 600  # characters of a server's answer in a message
LOG = "/log"  # end of the one address whose answer is a text
TRY_AGAIN = "run again; if it fails again, check the network and the server"


class GuardedClient(kfp.Client):
    """kfp.Client whose requests raise UserError and Outage."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """Ask once whether the server is there; kfp does it in its constructor."""
        self.guard()
        return self._healthz_api.healthz_service_get_healthz()

    def log_of(self, run_id: str, pod: str) -> str:
        """Return the log of a pod, which KFP's API server reads; empty if it does not. Raises as every request does."""
        self.guard()
        path = f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}{LOG}"
        return str(self._healthz_api.api_client.call_api(
            path, "GET", response_type="str", auth_settings=["Bearer"], _return_http_data_only=True
        ) or "")  # fmt: skip

    def use_namespace(self, namespace: str) -> None:
        """Use a namespace in this process; kfp's own method writes it into the user's configuration."""
        self._context_setting["namespace"] = namespace

    def guard(self) -> None:
        """Put the guard in front of every request."""
        rest = self._healthz_api.api_client.rest_client
        if not getattr(rest.request, "guards", False):
            rest.pool_manager.connection_pool_kw["retries"] = urllib3.Retry(
                total=2, connect=1, read=1, redirect=0, status=0, backoff_factor=0.5, raise_on_redirect=False
            )
            rest.request = _guarded(rest.request)


def _guarded(request: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(method: str, url: str, *arguments: Any, **settings: Any) -> Any:
        settings["_request_timeout"] = settings.get("_request_timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        try:
            response = request(method, url, *arguments, **settings)
        except kfp_server_api.ApiException as error:
            raise _answered(error, method, url) from None
        except (exceptions.HTTPError, OSError, UnicodeError) as error:
            raise _unanswered(error, _server(url)) from None
        if url.endswith(LOG) or _is_json(response.data):
            return response
        raise _not_kfp(url, "an answer that is not JSON" + (", a page" if b"<html" in response.data.lower() else ""))

    guarded.guards = True  # type: ignore[attr-defined]
    return guarded


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data or b"{}")
    except ValueError:
        return False
    return True


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _not_kfp(url: str, found: str) -> UserError:
    return UserError(
        Problem("CLIENT-E0201", _server(url), found, "the API of Kubeflow Pipelines",
                "correct the address (in Kubeflow it ends with /pipeline), or give a token if there is a login")
    )  # fmt: skip


def _answered(error: Any, method: str, url: str) -> StepError:
    """Return the error for an answer that is no success."""
    server, status, said = _server(url), error.status or 0, _words(error)
    if not status:  # kfp's client reports errors of TLS so
        return _tls(server, said)
    if status in (429, 502, 503, 504) or status >= 500:
        return Outage(Problem("CLIENT-E0402", server, f"{status}: {said}", "an answer", TRY_AGAIN))
    if 300 <= status < 400:
        place = _server((error.headers or {}).get("Location", "")) if error.headers else ""
        return _not_kfp(url, f"{status}, which leads to {place or 'another page'}")
    what = f"{method} {urlsplit(url).path.rpartition('/apis/')[2]}"
    known = {
        401: ("CLIENT-E0202", "a user who is logged in", "give a valid token by --token or KF_PIPELINES_TOKEN"),
        403: ("CLIENT-E0203", "a user who may do this",
              "check --namespace and the token, or ask an administrator for access"),
        404: ("CLIENT-E0204", "something that exists in Kubeflow Pipelines",
              "check the address (in Kubeflow it ends with /pipeline) and the name"),
        409: ("CLIENT-E0205", "a name that is free", "choose another name, or run again if someone did the same now"),
    }  # fmt: skip
    code, expected, fix = known.get(
        status, ("CLIENT-E0206", "a request that the server accepts", "correct what the server names")
    )
    return UserError(Problem(code, server, f"{status} for {what}: {said}", expected, fix))


def _words(error: Any) -> str:
    """Return what the server said: the message of KFP's JSON, or the text without its markup."""
    body = error.body if isinstance(error.body, str) else (error.body or b"").decode("utf-8", "replace")
    try:
        told = json.loads(body)
        said = told.get("message") or told.get("error_message") or told.get("error") or ""
    except (ValueError, AttributeError):
        said = "" if "<html" in body.lower() else body
    text = without_secrets(" ".join(str(said or error.reason or "no reason").split()))
    return text if len(text) <= LONGEST_WORDS else f"{text[: LONGEST_WORDS - 1]}…"


def _unanswered(error: BaseException, server: str) -> StepError:
    """Return the error for a request that got no answer."""
    reasons = list(_reasons(error))
    said = " ".join(str(reasons[-1]).split())[:200]
    if any(isinstance(one, exceptions.SSLError | ssl.SSLError) for one in reasons):
        return _tls(server, said)
    unknown = [one for one in reasons if isinstance(one, socket.gaierror | exceptions.NameResolutionError)]
    if unknown and not any(getattr(one, "errno", None) == socket.EAI_AGAIN for one in reasons):
        return UserError(
            Problem("CLIENT-E0207", server, "no host of this name", "the address of a server",
                    "correct --endpoint, or connect to the network in which it is known")
        )  # fmt: skip
    if any(isinstance(one, exceptions.LocationParseError | UnicodeError) for one in reasons):
        return UserError(Problem("CLIENT-E0208", server, said, "an address", "correct --endpoint"))
    if any(isinstance(one, ConnectionRefusedError) for one in reasons):
        said = "connection refused: nothing listens there"
    elif any(_is_timeout(one) for one in reasons):
        said = f"no answer within {CONNECT_SECONDS} s (connection) or {ANSWER_SECONDS} s (request)"
    return Outage(Problem("CLIENT-E0401", server, said, "an answer", TRY_AGAIN))


def _is_timeout(error: BaseException) -> bool:
    """Return whether time was over; to urllib3, every connection that fails is a timeout."""
    timeouts = exceptions.TimeoutError | TimeoutError
    return isinstance(error, timeouts) and not isinstance(error, exceptions.NewConnectionError)


def _reasons(error: BaseException) -> Any:
    """Yield an error and the errors in it, the innermost last."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]


def _tls(server: str, said: str) -> UserError:
    fix = "name the authority's certificates by --ca-cert FILE"
    if "WRONG_VERSION_NUMBER" in said or "wrong version number" in said or "record layer" in said.lower():
        said, fix = "a server that does not speak TLS there", "write http:// in --endpoint, or the right port"
    elif "expired" in said:
        fix = "renew the server's certificate"
    elif "Hostname mismatch" in said or "doesn't match" in said or "not valid for" in said:
        fix = "use the name in --endpoint for which the certificate was made"
    return UserError(
        Problem("CLIENT-E0209", server, f"a TLS connection that failed ({said[:300]})", "a certificate that is trusted",
                fix)
    )  # fmt: skip
