"""What the commands of this directory stand on: a PostgreSQL and a Redis of their own, tables made, Django ready.

from tests.benchmarks import ground
ground.lay()  # before anything of Django is imported
"""

import multiprocessing
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def lay() -> None:
    """Starts the neighbours (`tests.environment`), sets Django up and makes the tables."""
    from tests import environment

    assert environment.DIRECTORY.is_dir()
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)


def at_once(work: Callable[[int], T], numbers: Iterable[int]) -> list[T]:
    """Does the work in as many processes as there are numbers, all begun at one moment, and collects what they say.

    The processes are copies of this one without its connections.
    """
    from django.db import connections

    connections.close_all()
    numbers = list(numbers)
    copies = multiprocessing.get_context("fork")
    together = copies.Barrier(len(numbers))

    def begin(number: int, say: "multiprocessing.connection.Connection") -> None:
        together.wait()
        say.send(work(number))
        say.close()

    pipes = [copies.Pipe(duplex=False) for _ in numbers]
    processes = [
        copies.Process(target=begin, args=(number, say)) for number, (_hear, say) in zip(numbers, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for _hear, say in pipes:
        say.close()
    said = [hear.recv() for hear, _say in pipes]
    for process in processes:
        process.join()
    return said
