"""How exactly one machine is made: an explicit-state model of the protocol, and of the designs that lost against it.

One row, its server (and its port), two or three workers that claim, look, decide and act, a cloud that executes a
request before or after its client gave up, or never, and a person who deletes once. `explore` walks through *every*
state that can be reached, and answers two questions: can two live servers of one machine exist at once, and can the
system always still reach the right end by its own steps alone (no person, no fault)?

What is a step: one commit, one call, one answer, one fault. The fence is modelled as what it does: a write counts only
while its worker holds the lease. The quiet period is what it promises: it cannot end while a request may still be
executed. The sweeper's ages and brakes are left out; it may act at any moment on what no row can explain. A new step of
the protocol goes in here before it goes into `instances.provisioning`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Design:
    """A protocol, by what it does. See `DESIGNS`."""

    name: str
    adopts: bool = False  #: looks by name and tag, before it creates and until nothing is found when it deletes
    fenced: bool = False  #: a write counts only under the lease
    quiet: bool = False  #: commits an intent first, and waits out one that was not answered
    at_once: bool = False  #: look, intent and request are one step, as no real worker's are
    sweeps: bool = False  #: what no row explains is deleted
    ports: bool = False  #: the server is made on the machine's port, which takes one server
    unique: bool = True  #: a second port cannot be made: its address is derived from the machine


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How many workers there are, and how often each fault may strike."""

    workers: int = 2
    kills: int = 2
    slow: int = 1  #: a lease runs out while its worker still works
    silences: int = 1  #: a request without an answer: not executed, executed, or executed later
    beyond_quiet: bool = False  #: a request may be executed even after the quiet period: the promise is broken
    deletes: int = 1  #: the person wants it gone


class Worker(NamedTuple):
    """Where one worker stands, with what it read when it claimed (`deletes`, `port`) and what it has in hand."""

    at: str = "idle"
    owns: bool = False
    deletes: bool = False
    port: int = 0
    hand: int = 0


class State(NamedTuple):
    """All there is: the row, the workers, the cloud, and the faults that are left. Ids grow with age; 0 is none."""

    workers: tuple[Worker, ...]
    wanted_gone: bool = False
    forgotten: bool = False
    server: int = 0
    port: int = 0
    intent: bool = False
    port_intent: bool = False
    ghost: bool = False  #: a dead worker's lease, which has not run out yet
    servers: tuple[tuple[int, int], ...] = ()  #: (id, its port)
    ports: tuple[int, ...] = ()
    late: tuple[int, ...] = ()  #: requests for a server that nobody waits for any more, by port
    late_ports: int = 0
    kills: int = 0
    slow: int = 0
    silences: int = 0
    deletes: int = 0


IDLE = Worker()
#: a step: what it is called, whether it is the system's own, and where it leads
Step = tuple[str, bool, State]


def steps(design: Design, state: State, *, beyond_quiet: bool = False) -> Iterator[Step]:
    """Everything that can happen next."""
    yield from _faults_and_wishes(state)
    yield from _time(state, beyond_quiet=beyond_quiet)
    yield from _cloud(design, state)
    leased = state.ghost or any(worker.owns for worker in state.workers)
    for place, worker in enumerate(state.workers):
        if place and worker == state.workers[place - 1]:
            continue  # workers are all alike
        if worker.at == "idle":
            if not leased and not state.forgotten and (state.wanted_gone or not state.server):
                claimed = Worker("claimed", True, state.wanted_gone, state.port)
                yield "claim", True, _with(state, place, claimed)
        else:
            for name, after in _work(design, state, place, worker):
                yield name, True, after


def _faults_and_wishes(state: State) -> Iterator[Step]:
    if state.deletes and not state.wanted_gone:
        yield "the person deletes it", False, state._replace(wanted_gone=True, deletes=state.deletes - 1)
    for place, worker in enumerate(state.workers):
        if worker.at == "idle" or (place and worker == state.workers[place - 1]):
            continue
        if state.kills:
            after = _given_up(state, worker)._replace(kills=state.kills - 1, ghost=state.ghost or worker.owns)
            yield f"a worker is killed ({worker.at})", False, _with(after, place, IDLE)
        if worker.owns and state.slow:
            after = state._replace(slow=state.slow - 1)
            yield (
                f"a slow worker's lease runs out ({worker.at})",
                False,
                _with(after, place, worker._replace(owns=False)),
            )
        if state.silences and worker.at in {"sent", "answered", "port sent", "port answered"}:
            silent = state._replace(silences=state.silences - 1)
            unsure = _with(silent, place, IDLE)
            if worker.at.endswith("answered"):
                yield "an answer is lost", False, unsure
            else:
                yield "a request is lost", False, unsure
                yield "a client gives up", False, _given_up(unsure, worker)


def _given_up(state: State, worker: Worker) -> State:
    """Nobody waits for this worker's request any more; it may be executed all the same."""
    if worker.at == "sent":
        return state._replace(late=tuple(sorted((*state.late, worker.port))))
    if worker.at == "port sent":
        return state._replace(late_ports=state.late_ports + 1)
    return state


def _time(state: State, *, beyond_quiet: bool) -> Iterator[Step]:
    """What ends by itself."""
    if state.ghost:
        yield "a dead worker's lease runs out", True, state._replace(ghost=False)
    at = {worker.at for worker in state.workers}
    if state.intent and (beyond_quiet or (not state.late and "sent" not in at)):
        yield "the quiet period ends", True, state._replace(intent=False)
    if state.port_intent and (beyond_quiet or (not state.late_ports and "port sent" not in at)):
        yield "the port's quiet period ends", True, state._replace(port_intent=False)


def _cloud(design: Design, state: State) -> Iterator[Step]:
    """What the cloud and the sweeper do."""
    for place, port in enumerate(state.late):
        rest = state._replace(late=state.late[:place] + state.late[place + 1 :])
        yield "a late request is executed", True, _made(design, rest, port)[0]
    if state.late_ports:
        rest = state._replace(late_ports=state.late_ports - 1)
        yield "a late request for a port is executed", True, _port_made(design, rest)[0]
    for place, worker in enumerate(state.workers):
        if worker.at == "sent":
            after, made = _made(design, state, worker.port)
            yield "a request is executed", True, _with(after, place, worker._replace(at="answered", hand=made))
        elif worker.at == "port sent":
            after, made = _port_made(design, state)
            yield "a port is made", True, _with(after, place, worker._replace(at="port answered", hand=made))
    if design.sweeps:
        for server in state.servers:
            if state.forgotten or (state.server and state.server != server[0]):
                yield "the sweeper deletes a server", True, state._replace(servers=_without(state.servers, server))
        used = {port for _id, port in state.servers}
        for port in state.ports:
            if port not in used and (state.forgotten or (state.port and state.port != port)):
                yield "the sweeper deletes a port", True, state._replace(ports=_without(state.ports, port))


def _made(design: Design, state: State, port: int) -> tuple[State, int]:
    """The cloud executes a create. A port that is gone, or has a server, takes none (id 0: refused)."""
    if design.ports and (port not in state.ports or any(used == port for _id, used in state.servers)):
        return state, 0
    made = 1 + max([server for server, _port in state.servers] + [state.server] + [one.hand for one in state.workers])
    return state._replace(servers=(*state.servers, (made, port))), made


def _port_made(design: Design, state: State) -> tuple[State, int]:
    """The cloud makes a port; where its address is derived from the machine, the one there is stays the only one."""
    if design.unique and state.ports:
        return state, state.ports[0]
    made = 1 + max([*state.ports, *state.late, state.port] + [max(one.port, one.hand) for one in state.workers])
    return state._replace(ports=(*state.ports, made)), made


def _work(design: Design, state: State, place: int, worker: Worker) -> Iterator[tuple[str, State]]:
    """The next step of one worker."""
    writes = worker.owns or not design.fenced
    released = _with(state, place, IDLE)
    match worker.at:
        case "claimed" if worker.deletes:
            yield from _delete(design, state, place, worker)
        case "claimed" if not design.adopts:
            yield "post", _with(state, place, worker._replace(at="sent"))
        case "claimed":
            if state.servers:
                yield "look: there is one", _with(state, place, worker._replace(at="found", hand=state.servers[0][0]))
            elif state.intent:
                yield "look: none, and it is too early to try again", released
            elif design.ports and not worker.port:
                yield "look: none", _with(state, place, worker._replace(at="looked for a port"))
            elif design.at_once:
                sent = _with(state, place, worker._replace(at="sent"))
                yield "look, intent, post", sent._replace(intent=True) if writes else released
            else:
                yield "look: none", _with(state, place, worker._replace(at="looked"))
        case "looked for a port":
            if state.ports:
                yield "find the port", _with(state, place, worker._replace(at="port answered", hand=state.ports[0]))
            elif state.port_intent:
                yield "no port, and it is too early to try again", released
            elif design.unique:
                yield "post the port", _with(state, place, worker._replace(at="port sent"))
            elif writes:
                intent = state._replace(port_intent=True)
                yield "write the port's intent", _with(intent, place, worker._replace(at="port to send"))
            else:
                yield "fenced out", released
        case "port to send":
            yield "post the port", _with(state, place, worker._replace(at="port sent"))
        case "port answered":
            yield "save the port", released._replace(port=worker.hand, port_intent=False) if writes else released
        case "looked" if not design.quiet:
            yield "post", _with(state, place, worker._replace(at="sent"))
        case "looked":
            meant = _with(state, place, worker._replace(at="meant"))
            yield "write the intent", meant._replace(intent=True) if writes else released
        case "meant":
            yield "post", _with(state, place, worker._replace(at="sent"))
        case "answered" if not worker.hand:
            # Refused, the port is in use or gone: nothing was made by this request, whatever came before it.
            yield "look again", released._replace(intent=False) if writes else released
        case "answered" | "found":
            saved = released._replace(server=worker.hand, intent=False)
            yield "save the id", saved if writes else released
        case "deleting":
            kept = tuple(server for server in state.servers if server[0] > worker.hand)
            yield "delete what was found", released._replace(servers=kept)
        case "deleting ports":
            yield "delete the port", released._replace(ports=tuple(one for one in state.ports if one > worker.hand))
        case "forgetting":
            gone = released._replace(forgotten=True, server=0, port=0)
            yield "forget", gone if writes else released


def _delete(design: Design, state: State, place: int, worker: Worker) -> Iterator[tuple[str, State]]:
    """A worker that claimed a row whose machine is to be gone. `hand` is the youngest it found."""
    if not design.adopts:
        kept = tuple(server for server in state.servers if server[0] != state.server)
        yield "delete the one saved", _with(state._replace(servers=kept), place, worker._replace(at="forgetting"))
    elif state.servers:
        yield "look: there is one", _with(state, place, worker._replace(at="deleting", hand=state.servers[-1][0]))
    elif state.intent or state.port_intent:
        yield "look: none, and it is too early to say", _with(state, place, IDLE)
    elif state.ports:
        yield "look: its port", _with(state, place, worker._replace(at="deleting ports", hand=state.ports[-1]))
    else:
        yield "look: nothing", _with(state, place, worker._replace(at="forgetting"))


def _with(state: State, place: int, worker: Worker) -> State:
    workers = (*state.workers[:place], worker, *state.workers[place + 1 :])
    return state._replace(workers=tuple(sorted(workers)))


def _without(values: tuple[T, ...], one: T) -> tuple[T, ...]:
    return tuple(value for value in values if value != one)


def doubled(state: State) -> bool:
    """Two live servers of one machine."""
    return len(state.servers) > 1


def right(state: State) -> bool:
    """The right end: one server, the one that is named, or nothing at all; and nobody is at work."""
    busy = state.ghost or state.late or state.late_ports or state.intent or state.port_intent
    if busy or any(worker != IDLE for worker in state.workers):
        return False
    if state.wanted_gone:
        return state.forgotten and not state.servers and not state.ports
    return (
        bool(state.server)
        and [server for server, _port in state.servers] == [state.server]
        and len(state.ports) == bool(state.port)
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What walking through every state has shown. The paths are shortest ones: the names of their steps."""

    states: int
    steps: int
    doubled: tuple[str, ...] | None
    stuck: tuple[str, ...] | None


def explore(design: Design, faults: Faults) -> Found:
    """Every state, breadth first; then backwards from the right ends, by the system's own steps alone."""
    first = State(
        workers=(IDLE,) * faults.workers,
        kills=faults.kills,
        slow=faults.slow,
        silences=faults.silences,
        deletes=faults.deletes,
    )
    number = {first: 0}
    states = [first]
    came: list[tuple[int, str]] = [(-1, "")]
    before: list[list[int]] = [[]]  # by the system's own steps
    taken = 0
    twice = None
    at = 0
    while at < len(states):
        state = states[at]
        if twice is None and doubled(state):
            twice = at
        for name, own, after in steps(design, state, beyond_quiet=faults.beyond_quiet):
            taken += 1
            there = number.get(after)
            if there is None:
                there = number[after] = len(states)
                states.append(after)
                came.append((at, name))
                before.append([])
            if own:
                before[there].append(at)
        at += 1
    reaches = {at for at, state in enumerate(states) if right(state)}
    ahead = deque(reaches)
    while ahead:
        for earlier in before[ahead.popleft()]:
            if earlier not in reaches:
                reaches.add(earlier)
                ahead.append(earlier)
    stuck = next((at for at in range(len(states)) if at not in reaches), None)

    def path(at: int | None) -> tuple[str, ...] | None:
        if at is None:
            return None
        names: list[str] = []
        while at:
            at, name = came[at]
            names.append(name)
        return tuple(reversed(names))

    return Found(states=len(states), steps=taken, doubled=path(twice), stuck=path(stuck))


A = Design(name="A create, then save")
B = Design(name="B + adopt by tag (and fence)", adopts=True, fenced=True)
C = Design(name="C + quiet period, without fence", adopts=True, quiet=True)
D = Design(name="D + fence, look and POST as one step", adopts=True, quiet=True, fenced=True, at_once=True)
D_TRUE = Design(name="D' the same, look and POST as two steps", adopts=True, quiet=True, fenced=True)
E_TRUE = Design(name="E' + sweeper", adopts=True, quiet=True, fenced=True, sweeps=True)
PORT = Design(name="F' + port that can exist once", adopts=True, quiet=True, fenced=True, sweeps=True, ports=True)
PORT_ALONE = Design(name="F' without sweeper", adopts=True, quiet=True, fenced=True, ports=True)
SHARED = Design(
    name="G' + port found by name", adopts=True, quiet=True, fenced=True, sweeps=True, ports=True, unique=False
)
