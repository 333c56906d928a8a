"""Runs without Python: the command, its configuration files and their checks."""

from gammajax.cli.commands import app as app
