"""`deploy/demo`: a platform on this machine for people, or (`--check`) the whole path once, without a browser."""

import argparse
import json
import sys
from pathlib import Path

from deploy import demo_openstack, processes
from deploy.demo_platform import DemoPlatform, as_interrupt
from deploy.processes import ROOT, Missing, NotReady
from deploy.steps import step

STATE = ROOT / ".visa"


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1024 to 65535")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/demo",
        description="Runs the platform on this machine, with everything it needs, until Ctrl-C.",
    )
    parser.add_argument("--port", type=_port, help="where on 127.0.0.1 (default 8000; with --check any free one)")
    parser.add_argument(
        "--reset", action="store_true", help="begin anew: ends the demo's desktops and forgets all its state"
    )
    parser.add_argument("--check", action="store_true", help="go the whole way once, from link to desktop; exit 0 or 1")
    parser.add_argument(
        "--cloud",
        choices=["local", "openstack"],
        default="local",
        help="desktops of this machine (default), or an OpenStack: the one OS_CLOUD names, else deploy/openstack",
    )
    return parser.parse_args()


def welcome(platform: DemoPlatform) -> None:
    """Where it is, and whom to be."""
    cast = json.loads((ROOT / "deploy" / "identity" / "cast.json").read_text(encoding="utf-8"))
    lines = ["", f"  VISA runs at {platform.url}/", "", "  Sign in as one of them; there are no passwords:"]
    lines += [f"    {person['name']:<30} {person['summary']}" for person in cast]
    lines += ["", "  Follow a link, as a paper would hold it:"]
    lines += [f"    {platform.url}/launch/{doi:<34} {words}" for doi, words in shown_records()]
    lines += ["", "  Ctrl-C ends it. Desktops stay, and are found again at the next start; --reset ends those too.", ""]
    print("\n".join(lines), flush=True)


def shown_records() -> list[tuple[str, str]]:
    """DOIs of the demo and what each shows."""
    from deploy import demo_data

    return [(record.doi, record.shows) for record in demo_data.SHOWN]


def check(platform: DemoPlatform) -> int:
    """The whole path once, in a platform of its own."""
    from deploy import demo_check

    platform.clear()
    try:
        with platform:
            demo_check.run(platform, step)
    except demo_check.Failed as error:
        print(f"The check failed: {error}\nWhat each process said is in {platform.directory / 'log'}.", file=sys.stderr)
        platform.end_desktops()
        return 1
    platform.clear()
    print("The check passed.", flush=True)
    return 0


def main() -> int:
    asked = arguments()
    as_interrupt()
    try:
        name = "check" if asked.check else "demo"
        directory = STATE / (name if asked.cloud == "local" else f"{name}-openstack")
        port = asked.port or (processes.free_port() if asked.check else 8000)
        openstack = demo_openstack.variables(directory, step) if asked.cloud == "openstack" else None
        platform = DemoPlatform(directory, port=port, environment=name, openstack=openstack, step=step)
        if asked.check:
            return check(platform)
        if asked.reset:
            with step("Removing the demo's desktops and state"):
                platform.clear()
        with platform:
            welcome(platform)
            platform.watch()
    except (Missing, NotReady) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or Path.cwd()}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n  Ended.", file=sys.stderr)
        # the way a demo ends; but a check that was not finished has not passed
        return 130 if asked.check else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
