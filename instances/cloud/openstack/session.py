"""Speaking with OpenStack: one deadline for all calls of a verb, who is to blame, and its errors turned into ours."""

import email.utils
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast

import requests
import urllib3.exceptions
from keystoneauth1 import exceptions as auth_errors
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session, TCPKeepAliveAdapter
from openstack import exceptions as sdk_errors
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from typing_extensions import override

from instances.cloud.protocol import CloudDenied, CloudError, CloudLimited, CloudUnreachable, Service

#: One microversion for every call, so that a newer cloud does not change what an answer means. Xena and newer have it;
#: tags at creation need 2.52, and from 2.69 on a record may lack keys (its cell is down): then it is not ours to judge.
MICROVERSION: Final = "2.90"

_SERVICES: Final = {
    "compute": Service.NOVA,
    "network": Service.NEUTRON,
    "image": Service.GLANCE,
    "block-storage": Service.CINDER,
    "identity": Service.KEYSTONE,
}

#: a cloud that asks for a longer rest (s) is asked again after this one: a word of its proxy's must not stop a site
LONGEST_REST: Final = 3600.0

#: answers after which it is certain that an order was not executed
_DEFINITE: Final = frozenset({400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429})

#: what the SDK raises where it does not get what it expects; the assertion is of a token another thread gave up
_NONSENSE: Final = (
    *(sdk_errors.SDKException, auth_errors.ClientException),
    *(OSError, ValueError, TypeError, KeyError, AssertionError),
)


class TimedSession(Session):
    """A session whose calls share one deadline: signing in, discovery and the call itself take it together.

    Each request gets what is left of it, which bounds connecting, each wait for a byte of the headers, and the body as
    a whole: a service that is late with each in turn may take it twice more, and only one whose headers drip for ever
    is not given up. The fence holds for whoever waits for such a one.

    `asked` is who was asked last, and so who an error is from; `ordered` whether an order may have been executed;
    `spoilt` that this session is of no more use.
    """

    deadline: float = 0.0
    asked: Service = Service.KEYSTONE
    ordered: bool = False
    spoilt: bool = False
    #: what discovery was answered last, since the SDK keeps that to itself
    discovered: requests.Response | None = None
    _within: Service | None = None
    _inner_error: Exception | None = None

    def begin(self, asked: Service, seconds: float) -> None:
        """Begins a verb."""
        self.deadline = time.monotonic() + seconds
        self.asked, self.ordered, self.discovered, self._within, self._inner_error = asked, False, None, None, None

    def end(self) -> None:
        """Ends it. Answers and errors hold their connection, and the SDK holds this session for ever."""
        self.discovered = self._inner_error = None

    @override
    def request(self, url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        # Never zero or less, which requests refuses: a call after the deadline fails at once instead.
        kwargs["timeout"] = max(self.deadline - time.monotonic(), 0.05)
        if self.deadline and time.monotonic() >= self.deadline:
            # It waited too long for another thread to sign in. Nothing may be ordered that nobody waits for.
            raise auth_errors.ConnectTimeout("the time of this call was over before it was sent")
        outer, self.asked = self.asked, self._whom(url, kwargs)
        if self._within is not None or "endpoint_filter" not in kwargs:
            # Signing in or discovery, which is done for a call, before it or in the middle of it.
            try:
                answer = super().request(url, method, *args, **kwargs)
            except Exception as error:
                self._inner_error = error
                self.discovered = getattr(error, "response", None)
                self.spoilt |= self.asked is not Service.KEYSTONE and _tells_nothing(error)
                raise
            self.asked, self.discovered = outer, answer
            return answer
        order = method.upper() not in {"GET", "HEAD"}
        self._within = self.asked
        try:
            answer = super().request(url, method, *args, **kwargs)
        except Exception as error:
            self.ordered |= order and error is not self._inner_error and not _never_connected(error)
            raise
        finally:
            self._within = None
        self.ordered |= order and answer.status_code not in _DEFINITE
        return answer

    @override
    def invalidate(self, auth: BaseAuthPlugin | None = None) -> bool:
        """After a 401: the token is of no more use, and the call is tried once more with a new one.

        Whoever shares it may have said so first, which the SDK takes for a credential that cannot be renewed.
        """
        super().invalidate(auth)
        return True

    def _whom(self, url: str, kwargs: dict[str, Any]) -> Service:
        named = (kwargs.get("endpoint_filter") or {}).get("service_type")
        if named in _SERVICES:
            return _SERVICES[named]
        if url.startswith(str(getattr(self.auth, "auth_url", None) or "nowhere:")):
            return Service.KEYSTONE
        return self._within or self.asked


class _InTime(TCPKeepAliveAdapter):
    """Reads an answer's body within the time of its request: by itself requests bounds each wait for a byte alone."""

    @override
    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None, *args: Any, **more: Any
    ) -> requests.Response:
        end = time.monotonic() + timeout
        answer = super().send(request, stream, timeout, *args, **more)
        raw: Any = answer.raw
        # Weakly: an answer that held itself would hold its connection, after its thread has ended.
        raw.stream = partial(_stream, weakref.proxy(raw), end)
        return answer


def _stream(raw: Any, end: float, amount: int, *, decode_content: bool) -> Iterator[bytes]:
    """What has come of an answer, as it comes. Raises ReadTimeoutError when the time is over."""
    while chunk := raw.read1(amount, decode_content=decode_content):
        if time.monotonic() > end:
            raw.close()
            raise urllib3.exceptions.ReadTimeoutError(raw, "", "the time of this call was over before its answer was")
        yield chunk


class SignIn:
    """The one sign-in of all threads of a process: its token, and where its catalogue says who listens.

    The plugin may be used by many threads: one signs in while the others wait for it, no longer than its deadline,
    which is before theirs. After a fork there is a new one, since somebody may have held its lock.
    """

    def __init__(self) -> None:
        self._plugins: dict[int, BaseAuthPlugin] = {}

    def session(self, auth: BaseAuthPlugin, **options: Any) -> TimedSession:
        """A session that is signed in as all others of this process; `auth` signs in where it is the first."""
        timed = TimedSession(auth=self._plugins.setdefault(os.getpid(), auth), **options)
        for scheme in ("http://", "https://"):
            timed.session.mount(scheme, _InTime())
        return timed

    def forget(self) -> None:
        """The next session signs in anew, and asks anew where everybody listens."""
        self._plugins.pop(os.getpid(), None)


class Caller:
    """One thread's own connection, and its services. Whoever takes one of them is about to ask it something."""

    def __init__(self, cloud: str, sign_in: SignIn) -> None:
        constructor: Any = sign_in.session
        config = OpenStackConfig(session_constructor=constructor, app_name="visa")
        region = config.get_one(
            cloud=cloud,
            compute_default_microversion=MICROVERSION,
            # The SDK would send a POST again after a time-out, and make a second machine.
            connect_retries=0,
            status_code_retries=0,
        )
        self._connection = Connection(config=region)
        self.session = cast("TimedSession", region.get_session())
        # The SDK's cache of its calls' names keeps this session for ever: what it has open is closed with this object.
        # Neutron serves a hundred connections at once, idle ones too, and lets all others wait.
        weakref.finalize(self, self.session.session.close)

    @property
    def nova(self) -> Any:
        self.session.asked = Service.NOVA
        return self._connection.compute

    @property
    def neutron(self) -> Any:
        self.session.asked = Service.NEUTRON
        return self._connection.network

    @property
    def glance(self) -> Any:
        self.session.asked = Service.GLANCE
        return self._connection.image

    @property
    def cinder(self) -> Any:
        """None where the catalogue names no Cinder."""
        self.session.asked = Service.KEYSTONE
        auth: Any = self.session.auth
        known = auth.get_access(self.session).service_catalog.get_endpoints_data(service_type="block-storage")
        if not any(known.values()):
            return None
        self.session.asked = Service.CINDER
        return self._connection.block_storage

    @property
    def project_id(self) -> str:
        """The project that the credential is for."""
        self.session.asked = Service.KEYSTONE
        return str(self.session.get_project_id() or "")


@contextmanager
def our_errors(session: TimedSession) -> Iterator[None]:
    """Turns what the SDK raises into what the protocol knows. What does not tell what happened is CloudUnreachable."""
    try:
        yield
    except CloudError:
        raise
    except (sdk_errors.HttpException, auth_errors.HttpError) as error:
        status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
        if status in {401, 403}:
            raise CloudDenied(sentence(error), service=session.asked) from error
        # Every verb knows what it may not find; otherwise the address is wrong that discovery told.
        session.spoilt |= status == 404
        _raise_limited(error, getattr(error, "response", None), session.asked)
        raise CloudUnreachable(sentence(error), service=session.asked, unsent=not session.ordered) from error
    except sdk_errors.ServiceDiscoveryException as error:
        # The SDK would believe that for ever.
        session.spoilt = True
        _raise_limited(error, session.discovered, session.asked)
        raise CloudUnreachable(sentence(error), service=session.asked, unsent=not session.ordered) from error
    except (auth_errors.MissingRequiredOptions, auth_errors.NoMatchingPlugin) as error:
        raise unusable(error) from error
    except _NONSENSE as error:
        told = f"{type(error).__name__}: {sentence(error)}"
        raise CloudUnreachable(told, service=session.asked, unsent=not session.ordered) from error


def connect(cloud: str, sign_in: SignIn) -> Caller:
    """A connection for this thread, signed in with all of its process. Raises CloudDenied where clouds.yaml fails."""
    try:
        return Caller(cloud, sign_in)
    except (sdk_errors.SDKException, auth_errors.ClientException) as error:
        raise unusable(error) from error
    except OSError as error:
        raise CloudUnreachable(f"clouds.yaml: {sentence(error)}", service=Service.KEYSTONE, unsent=True) from error


def unusable(error: Exception) -> CloudDenied:
    return CloudDenied(f"clouds.yaml: {sentence(error)}", service=Service.KEYSTONE)


def sentence(error: Exception) -> str:
    """An error for staff. Nova quotes what it does not like, and that may be the user-data with its secrets."""
    told = " ".join(str(error).split())
    if "user_data" in told:
        return "Nova does not take the user-data"
    return told[:500]


def _raise_limited(error: Exception, response: requests.Response | None, service: Service) -> None:
    """Raises CloudLimited where the answer says so."""
    wait = _retry_after(response)
    if response is not None and (response.status_code == 429 or (response.status_code == 503 and wait is not None)):
        raise CloudLimited(sentence(error), service=service, retry_after=1.0 if wait is None else wait) from error


def _never_connected(error: BaseException | None) -> bool:
    """Whether nobody took the connection, so that nothing can have been read of what was to be sent."""
    while error is not None:
        if isinstance(error, requests.ConnectTimeout):
            return True
        if isinstance(error, requests.ConnectionError) and error.args:
            return isinstance(getattr(error.args[0], "reason", None), urllib3.exceptions.NewConnectionError)
        error = error.__cause__ or error.__context__
    return False


def _tells_nothing(error: Exception) -> bool:
    """Whether a service was silent when it was asked for its versions: the SDK then guesses an address, and keeps to it
    for ever.
    """
    status = getattr(error, "http_status", None) or 0
    return isinstance(error, auth_errors.ConnectionError) or status == 429 or status >= 500


def _retry_after(response: requests.Response | None) -> float | None:
    """The seconds of a Retry-After, which may be a number or a date (RFC 9110, 10.2.3); at most `LONGEST_REST`."""
    told = str(response.headers.get("Retry-After", "")) if response is not None else ""
    if told.isascii() and told.isdigit():
        return min(float(told), LONGEST_REST)
    try:
        rest = (email.utils.parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        return min(max(rest, 0.0), LONGEST_REST)
    except (TypeError, ValueError):
        return None
