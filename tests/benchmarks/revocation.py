"""How long from a revocation to the cut of the machine's side: `python -m tests.benchmarks.revocation [--desktops N]`.

A real gateway in a process of its own (uvicorn, uvloop) with open desktops; N are revoked one after the other, at
moments that have nothing to do with its questions. Once with Redis, which carries the hint, and once with Redis
stopped, when the question of each second has to find out. Half of the browsers read nothing, and their machines never
stop talking.

seconds from the return of the revocation until the machine's connection ends: median, 99th of a hundred, longest
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence

from tests.benchmarks import ground

ground.lay()

from instances import grants  # noqa: E402 - Django is set up by now
from tests import environment, factories  # noqa: E402
from tests.gateway import WebProcess  # noqa: E402
from tests.instances.desktop.conftest import Desk, in_database, make_desk  # noqa: E402
from tests.instances.desktop.machines import ScriptedMachine, keep, scripted_machine  # noqa: E402
from tests.instances.desktop.test_endpoint import connect, stalled  # noqa: E402
from tests.instances.desktop.test_tunnel import flood  # noqa: E402

#: open at once: a browser that takes nothing is cut by itself after half a minute
AT_ONCE = 10


async def measure(port: int, number: int) -> list[float]:
    """Seconds to each cut."""
    took: list[float] = []
    while len(took) < number:
        took += await _some(port, min(AT_ONCE, number - len(took)))
    return took


async def _some(port: int, number: int) -> list[float]:
    took: list[float] = []
    async with contextlib.AsyncExitStack() as open_now:
        desks: list[tuple[Desk, ScriptedMachine]] = []
        for index in range(number):
            reading = index % 2 == 0
            desk = await in_database(another_desk)
            machine = await open_now.enter_async_context(scripted_machine(keep if reading else flood))
            await desk.stands_at(machine.port, machine.secret)
            opened = connect if reading else stalled
            await open_now.enter_async_context(opened(port, desk, await desk.ticket()))
            desks.append((desk, machine))
        await asyncio.sleep(1)  # by then the gateway has asked about all of them, and listens
        for desk, machine in desks:
            # a moment that has nothing to do with the gateway's own
            await asyncio.sleep(random.uniform(0.1, 1.1))  # noqa: S311 - a time, no secret
            if machine.ended.is_set():
                raise RuntimeError("a desktop ended before it was revoked")
            await in_database(revoke, desk)
            begun = time.monotonic()
            async with asyncio.timeout(20):
                await machine.ended.wait()
            took.append(time.monotonic() - begun)
    return took


def another_desk() -> Desk:
    return make_desk(factories.make_user())


def revoke(desk: Desk) -> None:
    grants.revoke_machine(desk.instance_id, cause="revoked")


def told(took: Sequence[float]) -> dict[str, float]:
    ordered = sorted(took)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"n": len(took), "p50": statistics.median(took), "p99": p99, "max": ordered[-1]}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--desktops", type=int, default=100)
    number = words.parse_args().desktops
    web = WebProcess(environment.DIRECTORY / "log" / "revocation-web.log")
    web.start()
    try:
        figures = {"push": told(asyncio.run(measure(web.port, number)))}
        next(one for one in environment._running if one.name == "Redis").stop()
        figures["pull"] = told(asyncio.run(measure(web.port, number)))
    finally:
        web.stop()
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    for name, limit in (("push", 1.0), ("pull", 2.5)):
        if figures[name]["p99"] >= limit:
            sys.exit(f"{name}: p99 is {figures[name]['p99']:.2f} s, and should be below {limit} s")


if __name__ == "__main__":
    main()
