"""A project in an OpenStack: Nova's servers, found by name and metadata; Neutron's ports by name and description.

Wants an application credential in clouds.yaml and nothing of an administrator. What it calls, and so what access rules
must allow, is `ACCESS_RULES` in deploy/openstack/seed.py. Why it is as it is: docs/decisions/0008.
"""

import base64
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from openstack import exceptions as sdk_errors
from typing_extensions import override

from instances.cloud.openstack.records import changed_at, environment_mark, instance_tag, port_of, server_of, volume_of
from instances.cloud.openstack.session import Caller, SignIn, connect, our_errors, sentence
from instances.cloud.protocol import (
    CALL_SECONDS,
    Changes,
    Cloud,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
    Offering,
    Port,
    PortTaken,
    Server,
    ServerGone,
    ServerSpec,
    ServerStatus,
    Service,
    Volume,
    port_address,
    server_name,
)
from instances.userdata import LIMIT_BYTES

log = logging.getLogger(__name__)

R = TypeVar("R")

#: how long the ids of images, flavours and networks are believed, in seconds: three calls that each launch waits for
IDS_LAST: Final = 300.0

#: what is done to a server that is to run, by what Nova says it is; otherwise it runs already, or cannot be helped
_START: Final[dict[str, Callable[[Any, Any], object]]] = {
    "SHUTOFF": lambda nova, server: nova.start_server(server),
    "PAUSED": lambda nova, server: nova.unpause_server(server),
    "SUSPENDED": lambda nova, server: nova.resume_server(server),
    "SHELVED": lambda nova, server: nova.unshelve_server(server),
    "SHELVED_OFFLOADED": lambda nova, server: nova.unshelve_server(server),
}
#: and to one that is to be off: Nova shuts down no server that is frozen, so that one goes on first
_STOP: Final[dict[str, Callable[[Any, Any], object]]] = {
    "ACTIVE": lambda nova, server: nova.stop_server(server),
    "ERROR": lambda nova, server: nova.stop_server(server),
    "PAUSED": lambda nova, server: nova.unpause_server(server),
    "SUSPENDED": lambda nova, server: nova.resume_server(server),
}


@dataclass(frozen=True)
class _Network:
    """Our network. Only in one of the project's own may a member choose a port's address."""

    id: str
    own: bool


class OpenStackCloud(Cloud):
    """The project that the entry `cloud` of clouds.yaml signs in to; machines stand on the network called `network`.

    `environment` tells our servers from another installation's in the same project; `seconds` is the longest a verb may
    take. One connection per thread and process, made when first needed: the SDK's is not safe to share, and must not
    survive a fork. All threads of a process sign in once.
    """

    def __init__(self, *, cloud: str, network: str, environment: str, seconds: float = CALL_SECONDS) -> None:
        self._cloud = cloud
        self._network_name = network
        self._environment = environment
        self._seconds = seconds
        self._thread = threading.local()
        self._sign_in = SignIn()
        self._ids: dict[tuple[str, str], tuple[float, Any]] = {}
        self._foreign: set[str] = set()  # networks that refused an address of our choice

    # Servers.

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        with self._call(Service.NOVA) as caller:
            # Nova's name is a regular expression: anchored, since visa-1 would find visa-10 as well. Without the tags:
            # a filter of them costs Nova more, and would miss a server that somebody took them from. Without details:
            # mostly there is none, or one, whose id tells more for less (`python -m tests.benchmarks.looks`).
            named = caller.nova.servers(details=False, name=f"^{server_name(instance_id)}$")
            found = [self._known(caller, one) for one in sorted({record.id for record in named})]
            ours = [server for server in found if server is not None and server.instance_id == instance_id]
            return tuple(sorted(ours, key=lambda server: (server.created_at, server.id)))

    @override
    def known(self, server_id: str) -> Server | None:
        with self._call(Service.NOVA) as caller:
            return self._known(caller, server_id)

    @override
    def create(self, spec: ServerSpec) -> Server:
        user_data = spec.user_data.encode()
        if len(user_data) > LIMIT_BYTES:
            raise CloudRefused(f"user-data of {len(user_data):,} bytes; Nova takes {LIMIT_BYTES:,}")
        name, encoded = server_name(spec.instance_id), base64.b64encode(user_data).decode()
        metadata = {"visa_instance": str(spec.instance_id), "visa_environment": self._environment}
        with self._call(Service.GLANCE) as caller:

            def ids() -> tuple[str, str, str]:
                network = "" if spec.port_id else self._network(caller).id
                return self._image(caller, spec.image), self._flavour(caller, spec.flavour), network

            def post(wanted: tuple[str, str, str]) -> str:
                image, flavour, network = wanted
                with _definite_no(spec.port_id):
                    made = caller.nova.create_server(
                        name=name,
                        description=self._mark,
                        image_id=image,
                        flavor_id=flavour,
                        networks=[{"port": spec.port_id} if spec.port_id else {"uuid": network}],
                        user_data=encoded,
                        config_drive=True,
                        metadata={**metadata, "visa_serial": str(spec.serial)},
                        tags=[instance_tag(spec.instance_id), self._mark],
                    )
                if not made.id:
                    raise CloudUnreachable("an answer to a create that names no server")
                return str(made.id)

            wanted = ids()
            try:
                server_id = post(wanted)
            except CloudRefused:
                # What was refused may be an id that was right until a moment ago.
                self._ids.clear()
                if (fresh := ids()) == wanted:
                    raise
                server_id = post(fresh)
        # Nova's answer is little more than the id; the rest is seen at the next look.
        return Server(
            id=server_id,
            name=name,
            instance_id=spec.instance_id,
            status=ServerStatus.BUILD,
            desktop=None,
            created_at=datetime.now(UTC),
            flavour=spec.flavour,
            serial=spec.serial,
        )

    @override
    def start(self, server_id: str) -> None:
        self._order(server_id, _START)

    @override
    def stop(self, server_id: str) -> None:
        self._order(server_id, _STOP)

    @override
    def reboot(self, server_id: str) -> None:
        # Hard: who asks for it has a desktop that hangs, and it starts a server that is off as well.
        self._order(server_id, lambda nova, server: nova.reboot_server(server, "HARD"))

    @override
    def delete(self, server_id: str) -> None:
        with self._call(Service.NOVA) as caller:
            try:
                caller.nova.delete_server(self._ours(caller, server_id), ignore_missing=True)
            except ServerGone:
                return
            except sdk_errors.ConflictException as error:
                log.warning("server %s is not deleted: %s", server_id, sentence(error))

    @override
    def list(self) -> Iterable[Server]:
        with self._call(Service.NOVA) as caller:
            servers = self._servers(self._records(caller, tags=self._mark))
            return tuple(one for one in servers if one.status is not ServerStatus.DELETED)

    @override
    def changed_since(self, when: datetime) -> Changes:
        with self._call(Service.NOVA) as caller:
            # By name: Nova takes a server's tags and metadata away when it is deleted.
            records = self._records(caller, name="^visa-", changes_since=when.astimezone(UTC).isoformat())
            times = tuple(at for one in records if (at := changed_at(one)) is not None)
            return Changes(servers=self._servers(records), times=times)

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        with self._call(Service.NOVA) as caller:
            known = self._ours(caller, server_id)
            try:
                answer = caller.nova.get_server_console_output(known, length=lines)
            except sdk_errors.ConflictException:
                return ""  # not scheduled yet: there is no console to read
            except sdk_errors.NotFoundException as error:
                raise ServerGone(f"no server {server_id}") from error
        return str(answer.get("output") or "")

    # Ports.

    @property
    @override
    def unique_ports(self) -> bool:
        with self._call(Service.NEUTRON) as caller:
            return self._network(caller).own

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        with self._call(Service.NEUTRON) as caller:
            return self._ports(caller, name=server_name(instance_id))

    @override
    def create_port(self, instance_id: UUID) -> Port:
        name, mark = server_name(instance_id), self._mark
        with self._call(Service.NEUTRON) as caller:

            def post(network: _Network) -> Port:
                chosen = {"mac_address": port_address(instance_id)} if network.own else {}
                made = caller.neutron.create_port(network_id=network.id, name=name, description=mark, **chosen)
                if (port := port_of(made, self._environment)) is None:
                    raise CloudUnreachable("an answer to a create that names no port", service=Service.NEUTRON)
                return port

            network = self._network(caller)
            try:
                return post(network)
            except sdk_errors.ConflictException as error:
                return self._port_there(caller, instance_id, error)
            except sdk_errors.ForbiddenException:
                if not network.own:
                    raise
                # Neutron's policy is stricter here than the project's name on the network says.
                self._foreign.add(network.id)
            except (sdk_errors.BadRequestException, sdk_errors.NotFoundException) as error:
                self._ids.clear()
                if (fresh := self._network(caller)) == network:
                    raise CloudRefused(sentence(error), service=Service.NEUTRON) from error
                network = fresh
            return post(self._judged(network))

    @override
    def delete_port(self, port_id: str) -> None:
        with self._call(Service.NEUTRON) as caller, suppress(sdk_errors.NotFoundException):
            if port_of(caller.neutron.get_port(port_id), self._environment) is not None:
                with _not_yet(Service.NEUTRON):
                    caller.neutron.delete_port(port_id, ignore_missing=True)

    @override
    def ports(self) -> Iterable[Port]:
        with self._call(Service.NEUTRON) as caller:
            return self._ports(caller)

    # Volumes: the platform makes none, but a site's image or flavour may.

    @override
    def volumes(self) -> Iterable[Volume]:
        with self._call(Service.CINDER) as caller:
            if (cinder := caller.cinder) is None:
                return ()
            found = (volume_of(record, self._environment) for record in cinder.volumes(details=True))
            return tuple(volume for volume in found if volume is not None)

    @override
    def delete_volume(self, volume_id: str) -> None:
        with self._call(Service.CINDER) as caller, suppress(sdk_errors.NotFoundException):
            cinder = caller.cinder
            if cinder is not None and volume_of(cinder.get_volume(volume_id), self._environment) is not None:
                with _not_yet(Service.CINDER):
                    cinder.delete_volume(volume_id, ignore_missing=True)

    @override
    def offering(self) -> Offering:
        images: dict[str, str] = {}
        flavours: dict[str, str] = {}
        networks: dict[str, _Network] = {}
        with self._call(Service.GLANCE) as caller:
            for image in caller.glance.images(status="active", sort="created_at:desc"):
                images.setdefault(image.name, str(image.id))
            for flavour in caller.nova.flavors(details=False):
                flavours.setdefault(flavour.name, str(flavour.id))
            for network in caller.neutron.networks():
                networks.setdefault(network.name, _network_of(network, caller))
        found: dict[str, dict[str, Any]] = {"image": images, "flavour": flavours, "network": networks}
        for kind, named in found.items():
            for name, value in named.items():
                self._remember(kind, name, value)
        return Offering(images=frozenset(images), flavours=frozenset(flavours), networks=frozenset(networks))

    # How it is done.

    @contextmanager
    def _call(self, service: Service) -> Iterator[Caller]:
        """Around each verb, which asks this service first: this thread's own connection, the clock started, and no
        foreign error let out."""
        if getattr(self._thread, "process", None) != os.getpid():
            self._thread.caller = connect(self._cloud, self._sign_in)
            self._thread.process = os.getpid()
        caller: Caller = self._thread.caller
        caller.session.begin(service, self._seconds)
        try:
            with our_errors(caller.session):
                yield caller
        finally:
            caller.session.end()
            if caller.session.spoilt:
                self._thread.process = None
                self._sign_in.forget()

    @property
    def _mark(self) -> str:
        return environment_mark(self._environment)

    def _records(self, caller: Caller, **query: Any) -> Sequence[Any]:
        """The records of all servers that match a query. All pages, or an error."""
        # No `limit`: the SDK would then ask for a page after the last, and Nova shows a server that is being scheduled
        # behind itself. Without it the SDK follows Nova's own links from page to page.
        return tuple(caller.nova.servers(details=True, **query))

    def _servers(self, records: Iterable[Any]) -> tuple[Server, ...]:
        """Which of them are ours, oldest first."""
        ours = (server_of(record, self._environment, self._network_name) for record in records)
        # By id, since a server may move from one page to the next while they are read.
        seen = {server.id: server for server in ours if server is not None}
        return tuple(sorted(seen.values(), key=lambda server: (server.created_at, server.id)))

    def _known(self, caller: Caller, server_id: str) -> Server | None:
        with suppress(ServerGone):
            return server_of(self._ours(caller, server_id), self._environment, self._network_name)
        return None

    def _ours(self, caller: Caller, server_id: str) -> Any:
        """The record of a server of this environment. Raises ServerGone for every other."""
        try:
            # By id and nothing else: find_server would take a name as well.
            record = caller.nova.get_server(server_id)
        except (sdk_errors.NotFoundException, sdk_errors.BadRequestException) as error:
            raise ServerGone(f"no server {server_id}") from error
        # A server whose cell is down is UNKNOWN and without metadata, and left out of lists that are filtered.
        nameless = record.status == "UNKNOWN" and not record.metadata
        if not record.status or not record.created_at or nameless:
            raise CloudUnreachable(
                f"an answer about server {server_id} that says nothing of it", unsent=True, alone=True
            )
        server = server_of(record, self._environment, self._network_name)
        if server is None or server.status is ServerStatus.DELETED:
            raise ServerGone(f"no server {server_id} of ours")
        return record

    def _order(
        self, server_id: str, order: dict[str, Callable[[Any, Any], object]] | Callable[[Any, Any], object]
    ) -> None:
        """Gives an order, perhaps one for the server's status. Nova's 409 says that the server is not in a state for
        it: then nothing is to happen."""
        with self._call(Service.NOVA) as caller:
            known = self._ours(caller, server_id)
            action = order.get(known.status) if isinstance(order, dict) else order
            if action is None:
                return
            try:
                with _full():
                    action(caller.nova, known)
            except sdk_errors.NotFoundException as error:
                raise ServerGone(f"no server {server_id}") from error
            except sdk_errors.ConflictException as error:
                log.info("server %s is %s and takes no order: %s", server_id, known.status, sentence(error))

    def _ports(self, caller: Caller, **query: Any) -> tuple[Port, ...]:
        """Our ports that match a query, oldest first."""
        records = caller.neutron.ports(description=self._mark, **query)
        ours = [port for record in records if (port := port_of(record, self._environment)) is not None]
        return tuple(sorted(ours, key=lambda port: (port.created_at, port.id)))

    def _port_there(self, caller: Caller, instance_id: UUID, error: sdk_errors.HttpException) -> Port:
        """Neutron says 409 where the address is taken: by our port, made before. And where there is no room."""
        if "MacAddressInUse" not in _kind(error):
            raise CloudFull(sentence(error), service=Service.NEUTRON) from error
        address = port_address(instance_id)
        for port in self._ports(caller, name=server_name(instance_id)):
            if port.mac == address:
                return port
        raise CloudUnreachable(sentence(error), service=Service.NEUTRON, unsent=True) from error

    # What is asked again only now and then.

    def _image(self, caller: Caller, name: str) -> str:
        def look() -> str:
            images = caller.glance.images(name=name, status="active", sort="created_at:desc")
            return str(_first(images, f"no image called {name!r}", Service.GLANCE).id)

        return self._remembered("image", name, look)

    def _flavour(self, caller: Caller, name: str) -> str:
        def look() -> str:
            flavours = (found for found in caller.nova.flavors(details=False) if found.name == name)
            return str(_first(flavours, f"no flavour called {name!r}", Service.NOVA).id)

        return self._remembered("flavour", name, look)

    def _network(self, caller: Caller) -> _Network:
        name = self._network_name

        def look() -> _Network:
            found = _first(caller.neutron.networks(name=name), f"no network called {name!r}", Service.NEUTRON)
            return _network_of(found, caller)

        return self._judged(self._remembered("network", name, look))

    def _judged(self, network: _Network) -> _Network:
        return _Network(network.id, own=network.own and network.id not in self._foreign)

    def _remembered(self, kind: str, name: str, look: Callable[[], R]) -> R:
        until, value = self._ids.get((kind, name), (0.0, None))
        if until < time.monotonic():
            value = look()
            self._remember(kind, name, value)
        found: R = value
        return found

    def _remember(self, kind: str, name: str, value: object) -> None:
        self._ids[kind, name] = (time.monotonic() + IDS_LAST, value)


def _network_of(record: Any, caller: Caller) -> _Network:
    return _Network(str(record.id), bool(record.project_id) and record.project_id == caller.project_id)


def _first(found: Iterable[Any], missing: str, service: Service) -> Any:
    for one in found:
        return one
    raise CloudRefused(missing, service=service)


@contextmanager
def _definite_no(port_id: str) -> Iterator[None]:
    """Around the POST of a server: a definite no of Nova's is told from an answer that says nothing."""
    try:
        with _full():
            yield
    except sdk_errors.HttpException as error:
        told = sentence(error)
        # Nova's PortInUse (409) and PortNotFound (400), by their sentences.
        if port_id and port_id in told and error.status_code in {400, 404, 409}:
            raise PortTaken(told) from error
        if error.status_code in {400, 403, 404, 406, 409, 413}:
            raise CloudRefused(told) from error
        raise


@contextmanager
def _full() -> Iterator[None]:
    """Quota errors: the literal ones of nova/exception.py, and those of unified limits (oslo.limit, ProjectOverLimit).

    A plain 403 is a matter of rights.
    """
    try:
        yield
    except sdk_errors.HttpException as error:
        told = str(error).lower()
        if error.status_code == 403 and ("quota exceeded" in told or "is over a limit for" in told):
            raise CloudFull(sentence(error)) from error
        raise


@contextmanager
def _not_yet(service: Service) -> Iterator[None]:
    """Around a deletion that the state of the thing may forbid: a port in use elsewhere, a disk with snapshots."""
    try:
        yield
    except (sdk_errors.BadRequestException, sdk_errors.ConflictException) as error:
        raise CloudRefused(sentence(error), service=service) from error


def _kind(error: sdk_errors.HttpException) -> str:
    """What Neutron calls an error (`NeutronError.type`), or all that it says."""
    response = getattr(error, "response", None)
    return response.text if response is not None else str(error)
