"""What the audit trail costs the transactions it tells of, in one run: `python -m tests.benchmarks.audit`.

A PostgreSQL of its own that syncs its writes, and 8 writers that each make transactions like a launch: a conditional
update of a counter of their own, a row, the audit row, a pause of so many milliseconds for what else a launch asks the
database, commit. Four ways to write the audit row:

none        no audit row
beside      a row without a place in the chain, sealed by one sealer each second (the product's code)
chained     the row takes the chain's lock, reads the last hash, and holds the lock until its commit
four        the same with four chains, two writers on each

Each line: transactions a second of all 8, and milliseconds from begin to commit, median and 99th of 100. For `beside`
also how long the sealer worked for a row, and how many rows waited at the end.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from deploy.processes import start_postgres

WRITERS = 8
CHAINS = 4
INSERT = (
    "INSERT INTO audit_auditevent"
    " (actor, on_behalf_of, action, kind, object_id, reason, correlation, text_digest, detail)"
    " VALUES ('a', '', 'instance.wanted.running', 'instance', %s, '', 'request-1', '', '{}')"
)

Write = Callable[[psycopg.Cursor[tuple[int]], int], None]


def nothing(_cursor: psycopg.Cursor[tuple[int]], _writer: int) -> None:
    """No audit row."""


def beside(cursor: psycopg.Cursor[tuple[int]], writer: int) -> None:
    """The product's way."""
    cursor.execute(INSERT, [str(writer)])


def chained_by(chains: int) -> Write:
    """The row takes its place under a lock that is held until the commit."""

    def write(cursor: psycopg.Cursor[tuple[int]], writer: int) -> None:
        chain = writer % chains
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [chain])
        cursor.execute("SELECT max(number) FROM chain WHERE chain = %s", [chain])
        cursor.execute(
            "INSERT INTO chain SELECT %s, coalesce(max(number), 0) + 1, sha256('x') FROM chain WHERE chain = %s",
            [chain, chain],
        )
        cursor.execute(INSERT, [str(writer)])

    return write


def measure(
    connect: Callable[[], psycopg.Connection[tuple[int]]], write: Write, pause: float, seconds: float
) -> dict[str, float]:
    """Runs the writers for so long."""
    took: list[list[float]] = [[] for _ in range(WRITERS)]
    until = time.monotonic() + seconds

    def work(writer: int) -> None:
        with connect() as connection, connection.cursor() as cursor:
            while time.monotonic() < until:
                begun = time.monotonic()
                cursor.execute("UPDATE allowance SET used = used + 1 WHERE person = %s AND used < 1000000", [writer])
                cursor.execute("INSERT INTO machine (person) VALUES (%s)", [writer])
                write(cursor, writer)
                time.sleep(pause)
                connection.commit()
                took[writer].append((time.monotonic() - begun) * 1000)

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(work, writer) for writer in range(WRITERS)]:
            done.result()
    every = sorted(one for each in took for one in each)
    return {
        "a second": round(len(every) / seconds),
        "median ms": round(statistics.median(every), 2),
        "p99 ms": round(every[int(len(every) * 0.99)], 2),
    }


def main() -> None:
    """Prints a line of JSON for each way and pause."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    import django

    import tests.environment  # noqa: F401 - the variables Django wants

    django.setup()
    with tempfile.TemporaryDirectory(prefix="visa-audit-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        database = start_postgres(Path(directory) / "postgres", log=Path(directory) / "log", durable=True)
        try:
            _run(database.facts["host"], seconds)
        finally:
            database.stop()


def _run(host: str, seconds: float) -> None:
    from django.core.management import call_command
    from django.db import connection

    from visa.audit import sealing, verification

    connection.settings_dict.update(HOST=host, NAME="visa", USER="visa")
    call_command("migrate", "audit", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE allowance (person int PRIMARY KEY, used int NOT NULL)")
        cursor.execute("INSERT INTO allowance SELECT n, 0 FROM generate_series(0, %s) n", [WRITERS])
        cursor.execute("CREATE TABLE machine (id bigserial PRIMARY KEY, person int NOT NULL)")
        cursor.execute("CREATE TABLE chain (chain int, number bigint, hash bytea, PRIMARY KEY (chain, number))")

    def connect() -> psycopg.Connection[tuple[int]]:
        return psycopg.connect(host=host, dbname="visa", user="visa")

    for pause in (0.0, 0.005):
        for name, write in (
            ("none", nothing),
            ("beside", beside),
            ("chained", chained_by(1)),
            ("four", chained_by(CHAINS)),
        ):
            stopping, spent = threading.Event(), [0.0, 0]

            def seal() -> None:
                while not stopping.is_set():  # noqa: B023 - joined before the next turn
                    begun = time.thread_time()
                    spent[1] += sealing.seal()  # noqa: B023
                    spent[0] += time.thread_time() - begun  # noqa: B023
                    stopping.wait(1.0)  # noqa: B023
                connection.close()

            sealer = threading.Thread(target=seal)
            if name == "beside":
                sealer.start()
            found: dict[str, object] = {
                "way": name,
                "pause ms": pause * 1000,
                **measure(connect, write, pause, seconds),
            }
            stopping.set()
            if name == "beside":
                sealer.join()
                found["sealer us a row"] = round(spent[0] / max(spent[1], 1) * 1e6)
                found["unsealed at the end"] = sealing.unsealed().count()
            while sealing.seal():
                pass
            print(json.dumps(found), flush=True)
    begun = time.monotonic()
    verdict = verification.verify()
    took = time.monotonic() - begun
    words = {
        "verified rows": verdict.rows,
        "faults": len(verdict.faults),
        "us a row": round(took / max(verdict.rows, 1) * 1e6),
    }
    print(json.dumps(words))


if __name__ == "__main__":
    main()
