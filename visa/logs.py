"""Log lines: one JSON object a line, every field capped, so that nobody's input can forge or flood a log."""

import json
import logging

from typing_extensions import override

from visa.audit import origins

FIELD_LIMIT = 2000


class LineFormatter(logging.Formatter):
    """A record as one JSON line: time, level, logger, message; where there are, request or step and traceback."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:FIELD_LIMIT],
        }
        if correlation := origins.current().correlation:
            line["correlation"] = correlation  # as in the audit trail
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-4 * FIELD_LIMIT :]
        return json.dumps(line, ensure_ascii=True)
