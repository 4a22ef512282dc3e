"""One line on the terminal for each step, with the time it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(words: str) -> Iterator[None]:
    """Say what is being done, and when it is done how many seconds it took."""
    live = sys.stderr.isatty()
    if live:
        print(f"  {words} …", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        if live:
            print(file=sys.stderr)
        raise
    print(f"{chr(13) if live else ''}  {words:<44} {time.monotonic() - began:6.1f} s", file=sys.stderr, flush=True)
