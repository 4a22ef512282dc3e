"""A project in an OpenStack: Nova's servers, found by name, tag and metadata. The only file that knows openstacksdk.

Wants an application credential in clouds.yaml and nothing of an administrator. What it calls, and so what access rules
must allow, is `ACCESS_RULES` in deploy/openstack/seed.py.
"""

import base64
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from keystoneauth1 import exceptions as auth_errors
from keystoneauth1.session import Session
from openstack import exceptions as sdk_errors
from openstack.compute.v2.server import Server as NovaServer
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from typing_extensions import override

from instances.cloud.protocol import (
    CALL_SECONDS,
    Cloud,
    CloudDenied,
    CloudError,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
    Desktop,
    Offering,
    Server,
    ServerGone,
    ServerSpec,
    ServerStatus,
    server_name,
)
from instances.userdata import LIMIT_BYTES

log = logging.getLogger(__name__)

R = TypeVar("R")

#: One microversion for every call, so that a newer cloud does not change what an answer means. Xena and newer have it;
#: tags at creation need 2.52, and from 2.69 on a record may lack keys (its cell is down): then it is not ours to judge.
MICROVERSION: Final = "2.90"

#: where a machine's desktop listens; deploy/images/build
DESKTOP_PORT: Final = 5901

#: how long Nova may take to write down why a server failed, after it says that it did
FAULT_COMES: Final = timedelta(seconds=10)

_STATUS: Final = {
    "BUILD": ServerStatus.BUILD,
    "ACTIVE": ServerStatus.ACTIVE,
    "SHUTOFF": ServerStatus.SHUTOFF,
    "REBOOT": ServerStatus.REBOOT,
    "HARD_REBOOT": ServerStatus.REBOOT,
    "ERROR": ServerStatus.ERROR,
    "DELETED": ServerStatus.DELETED,
    "SOFT_DELETED": ServerStatus.DELETED,
}


class _TimedSession(Session):
    """A session whose calls share one deadline: signing in, discovery and the call itself take it together.

    The time-out of a requests call bounds each wait for a byte, so this holds for all but a cloud that drips.
    """

    deadline: float = 0.0

    @override
    def request(self, url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        # Never zero or less, which requests refuses: a call after the deadline fails at once instead.
        kwargs["timeout"] = max(self.deadline - time.monotonic(), 0.05)
        return super().request(url, method, *args, **kwargs)


class OpenStackCloud(Cloud):
    """The project that the entry `cloud` of clouds.yaml signs in to; machines stand on the network called `network`.

    `environment` tells our servers from another installation's in the same project; `seconds` is the longest a verb may
    take. One connection per thread and process, made when first needed: the SDK's is not safe to share, and must not
    survive a fork.
    """

    def __init__(self, *, cloud: str, network: str, environment: str, seconds: float = CALL_SECONDS) -> None:
        self._cloud = cloud
        self._network = network
        self._environment = environment
        self._seconds = seconds
        self._own = threading.local()

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        tags = f"{_instance_tag(instance_id)},{self._environment_tag}"
        with self._call() as connection:
            # Nova's name is a regular expression: anchored, since visa-1 would find visa-10 as well.
            found = self._servers(connection, name=f"^{server_name(instance_id)}$", tags=tags)
            ours = (server for server in found if server.instance_id == instance_id)
            return tuple(self._explained(connection, server) for server in ours)

    @override
    def create(self, spec: ServerSpec) -> Server:
        user_data = spec.user_data.encode()
        if len(user_data) > LIMIT_BYTES:
            raise CloudRefused(f"user-data of {len(user_data):,} bytes; Nova takes {LIMIT_BYTES:,}")
        with self._call() as connection:
            images = connection.image.images(name=spec.image, status="active", sort="created_at:desc")
            image = _first(images, f"no image called {spec.image!r}")
            flavours = (found for found in connection.compute.flavors(details=False) if found.name == spec.flavour)
            flavour = _first(flavours, f"no flavour called {spec.flavour!r}")
            networks = connection.network.networks(name=self._network)
            network = _first(networks, f"no network called {self._network!r}")
            with _definite_no():
                made = connection.compute.create_server(
                    name=server_name(spec.instance_id),
                    image_id=image.id,
                    flavor_id=flavour.id,
                    networks=[{"uuid": network.id}],
                    user_data=base64.b64encode(user_data).decode(),
                    config_drive=True,
                    metadata={"visa_instance": str(spec.instance_id), "visa_environment": self._environment},
                    tags=[_instance_tag(spec.instance_id), self._environment_tag],
                )
            if not made.id:
                raise CloudUnreachable("an answer to a create that names no server")
        # Nova's answer is little more than the id; the rest is seen at the next look.
        return Server(
            id=made.id,
            name=server_name(spec.instance_id),
            instance_id=spec.instance_id,
            status=ServerStatus.BUILD,
            desktop=None,
            created_at=datetime.now(UTC),
        )

    @override
    def start(self, server_id: str) -> None:
        self._order(server_id, lambda compute, known: compute.start_server(known))

    @override
    def stop(self, server_id: str) -> None:
        self._order(server_id, lambda compute, known: compute.stop_server(known))

    @override
    def reboot(self, server_id: str) -> None:
        # Hard: who asks for it has a desktop that hangs, and it starts a server that is off as well.
        self._order(server_id, lambda compute, known: compute.reboot_server(known, "HARD"))

    @override
    def delete(self, server_id: str) -> None:
        with self._call() as connection:
            try:
                connection.compute.delete_server(self._ours(connection, server_id), ignore_missing=True)
            except ServerGone:
                return

    @override
    def list(self) -> Iterable[Server]:
        with self._call() as connection:
            return self._servers(connection, tags=self._environment_tag)

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        with self._call() as connection:
            known = self._ours(connection, server_id)
            try:
                answer = connection.compute.get_server_console_output(known, length=lines)
            except sdk_errors.ConflictException:
                return ""  # not scheduled yet: there is no console to read
            except sdk_errors.NotFoundException as error:
                raise ServerGone(f"no server {server_id}") from error
        return str(answer.get("output") or "")

    @override
    def offering(self) -> Offering:
        with self._call() as connection:
            return Offering(
                images=frozenset(image.name for image in connection.image.images(status="active")),
                flavours=frozenset(flavour.name for flavour in connection.compute.flavors(details=False)),
                networks=frozenset(network.name for network in connection.network.networks()),
            )

    @contextmanager
    def _call(self) -> Iterator[Connection]:
        """Around each verb: this thread's own connection, the clock started, and no foreign error let out."""
        with _our_errors():
            if getattr(self._own, "process", None) != os.getpid():
                config = OpenStackConfig(session_constructor=_TimedSession, app_name="visa")
                region = config.get_one(
                    cloud=self._cloud,
                    compute_default_microversion=MICROVERSION,
                    # The SDK would send a POST again after a time-out, and make a second machine.
                    connect_retries=0,
                    status_code_retries=0,
                )
                self._own.connection = Connection(config=region)
                self._own.session = region.get_session()
                self._own.process = os.getpid()
            session: _TimedSession = self._own.session
            session.deadline = time.monotonic() + self._seconds
            connection: Connection = self._own.connection
            yield connection

    @property
    def _environment_tag(self) -> str:
        return f"visa:environment={self._environment}"

    def _servers(self, connection: Connection, **query: Any) -> tuple[Server, ...]:
        """Our servers that match a query, oldest first, without the deleted ones. All pages, or an error."""
        # No `limit`: the SDK would then ask for a page after the last, and Nova shows a server that is being scheduled
        # behind itself. Without it the SDK follows Nova's own links from page to page.
        records = connection.compute.servers(details=True, **query)
        # By id, since a server may move from one page to the next while they are read.
        seen = {record.id: server for record in records if (server := self._seen(record)) is not None}
        alive = [server for server in seen.values() if server.status is not ServerStatus.DELETED]
        return tuple(sorted(alive, key=lambda server: (server.created_at, server.id)))

    def _explained(self, connection: Connection, server: Server) -> Server:
        """The server with its fault. Nova's listings leave out why a server found no host; asked by id, it tells."""
        if server.status not in {ServerStatus.ERROR, ServerStatus.UNKNOWN} or server.fault:
            return server
        with suppress(sdk_errors.NotFoundException):
            return self._seen(connection.compute.get_server(server.id)) or server
        return server

    def _ours(self, connection: Connection, server_id: str) -> NovaServer:
        """The record of a server of this environment. Raises ServerGone for every other."""
        try:
            # By id and nothing else: find_server would take a name as well.
            record = connection.compute.get_server(server_id)
        except (sdk_errors.NotFoundException, sdk_errors.BadRequestException) as error:
            raise ServerGone(f"no server {server_id}") from error
        if not record.status or not record.created_at:
            raise CloudUnreachable(f"an answer about server {server_id} that says nothing of it")
        server = self._seen(record)
        if server is None or server.status is ServerStatus.DELETED:
            raise ServerGone(f"no server {server_id} of ours")
        return record

    def _order(self, server_id: str, order: Callable[[Any, NovaServer], object]) -> None:
        """Gives an order. Nova's 409 says that the server is not in a state for it: then nothing is to happen."""
        with self._call() as connection:
            known = self._ours(connection, server_id)
            try:
                order(connection.compute, known)
            except sdk_errors.NotFoundException as error:
                raise ServerGone(f"no server {server_id}") from error
            except sdk_errors.ConflictException as error:
                log.info("server %s is %s and takes no order: %s", server_id, known.status, _sentence(error))

    def _seen(self, record: NovaServer) -> Server | None:
        """A record as the platform sees it; None where it does not carry our marks.

        Tags can be edited by anybody with access to the project, and a name can be chosen twice: the metadata decides.
        """
        metadata: Mapping[str, str] = record.metadata or {}
        if metadata.get("visa_environment") != self._environment:
            return None
        try:
            instance_id = UUID(metadata.get("visa_instance", ""))
        except ValueError:
            return None
        fault = str((record.fault or {}).get("message", "")).strip()[:500]
        status = _STATUS.get(record.status or "", ServerStatus.UNKNOWN)
        if status is ServerStatus.ERROR and not fault and _is_recent(record.updated_at):
            # Nova says ERROR first and why a moment later. Not told yet is UNKNOWN: look again before judging.
            status = ServerStatus.UNKNOWN
        return Server(
            id=record.id,
            name=record.name or "",
            instance_id=instance_id,
            status=status,
            desktop=_desktop(record.addresses or {}, self._network),
            created_at=datetime.fromisoformat(record.created_at),
            fault=fault,
        )


def _instance_tag(instance_id: UUID) -> str:
    return f"visa:instance={instance_id}"


def _is_recent(timestamp: str | None) -> bool:
    """Whether a time of the cloud's is about now. Where its clock is wrong, it is not."""
    return timestamp is not None and abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)) < FAULT_COMES


def _desktop(addresses: Mapping[str, Iterable[Mapping[str, object]]], network: str) -> Desktop | None:
    """The server's own address on our network, IPv4 before IPv6. The cloud reports it; the gateway judges it again."""
    own = [entry for entry in addresses.get(network, ()) if entry.get("OS-EXT-IPS:type", "fixed") == "fixed"]
    for entry in sorted(own, key=lambda entry: str(entry.get("version"))):
        return Desktop(host=str(entry["addr"]), port=DESKTOP_PORT)
    return None


def _first(found: Iterable[R], missing: str) -> R:
    for one in found:
        return one
    raise CloudRefused(missing)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turns what the SDK raises into what the protocol knows. What does not tell what happened is CloudUnreachable."""
    try:
        yield
    except CloudError:
        raise
    except (sdk_errors.HttpException, auth_errors.HttpError) as error:
        status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
        if status in {401, 403}:
            raise CloudDenied(_sentence(error)) from error
        raise CloudUnreachable(_sentence(error)) from error
    except (sdk_errors.ConfigException, auth_errors.MissingRequiredOptions, auth_errors.NoMatchingPlugin) as error:
        raise CloudDenied(f"clouds.yaml: {_sentence(error)}") from error
    except (sdk_errors.SDKException, auth_errors.ClientException, OSError, ValueError, TypeError, KeyError) as error:
        raise CloudUnreachable(f"{type(error).__name__}: {_sentence(error)}") from error


@contextmanager
def _definite_no() -> Iterator[None]:
    """Around the one POST: a definite no of Nova's is told from an answer that says nothing."""
    try:
        yield
    except sdk_errors.HttpException as error:
        # The literal quota errors of nova/exception.py; a plain 403 is a matter of rights.
        if error.status_code == 403 and "quota exceeded" in str(error).lower():
            raise CloudFull(_sentence(error)) from error
        if error.status_code in {400, 403, 404, 406, 409, 413}:
            raise CloudRefused(_sentence(error)) from error
        raise


def _sentence(error: Exception) -> str:
    """An error for staff. Nova quotes what it does not like, and that may be the user-data with its secrets."""
    sentence = " ".join(str(error).split())
    if "user_data" in sentence:
        return "Nova does not take the user-data"
    return sentence[:500]
