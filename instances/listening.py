"""Worker side: hears a machine on its serial console where it is silent on the network, or where somebody asked.

The console is hostile text like all a machine says. Whatever goes wrong here holds up no machine.
"""

import logging

from instances import guest_reports, reports
from instances.cloud.protocol import CloudError
from instances.lifecycle import Seen
from instances.outcomes import Sight, Visit

log = logging.getLogger(__name__)

#: lines of the console that are asked for: a boot's, and the reports among them
LINES = 400


def listen(visit: Visit, sight: Sight) -> None:
    """Reads the console where that is due; what a silent machine says there counts as said."""
    instance = visit.claim.instance
    if sight.server is None or not guest_reports.console_is_due(instance, sight.seen, visit.claim.now):
        return
    try:
        text = visit.cloud.console(sight.server.id, lines=LINES)
    except CloudError as error:
        log.warning("instance %s: its console is not told: %s", instance.id, error)
        return
    guest_reports.keep_console(instance.id, text)
    if sight.seen is Seen.BOOTING and guest_reports.is_silent(instance):
        guest_reports.hear(instance.id, reports.from_console(text), heard="console")
