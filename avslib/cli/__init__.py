"""`avs`: the command line over the same functions that Python users call."""

from avslib.cli.app import app, main
