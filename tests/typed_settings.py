"""The settings as the tools see them that only read: the type checker, makemigrations --check. Nothing is connected."""

import os

_COMPLETE = {
    "VISA_PROCESS": "command",
    "VISA_SITE_URL": "https://visa.example.org",
    "VISA_DATABASE_HOST": "/nonexistent",
    "VISA_REDIS_URL": "unix:///nonexistent/redis",
    "VISA_SIGNING_KEY": "read-only-tools-sign-nothing-" + 40 * "x",
    "VISA_MACHINE_KEYS": 43 * "A" + "=",
    "VISA_DESKTOP_RANGES": "127.0.0.0/8",
    "VISA_CLOUD_KIND": "memory",
    "VISA_CLOUD_ENVIRONMENT": "test-tools",
    "VISA_DATA_SOURCE": "/nonexistent/{path}",
}
for _name, _value in _COMPLETE.items():
    os.environ.setdefault(_name, _value)

from visa.settings import *  # noqa: E402, F403, TID251 - after the variables; this is the settings module of those tools
