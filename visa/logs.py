"""Log lines: one JSON object a line, every field capped, so that nobody's input can forge or flood a log."""

import json
import logging

from typing_extensions import override

FIELD_LIMIT = 2000


class LineFormatter(logging.Formatter):
    """A record as one JSON line: time, level, logger, message and, where there is one, the traceback."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:FIELD_LIMIT],
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-4 * FIELD_LIMIT :]
        return json.dumps(line, ensure_ascii=True)
