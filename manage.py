#!/usr/bin/env python
"""Django's command line. The environment is read as the process type ``command`` unless VISA_PROCESS says otherwise."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "visa.settings")
    os.environ.setdefault("VISA_PROCESS", "command")
    execute_from_command_line(sys.argv)
