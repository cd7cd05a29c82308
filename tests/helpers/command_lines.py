"""Command lines in pages: parsed as `avs` would, behind the doors to the checkout too, without running anything."""

from importlib import import_module

import typer

from avslib.cli import app
from avslib.cli.doors import DOORS


def understood(line: str) -> bool:
    """Whether `line` ("avs ...", maybe with a comment) is parsed; a wrong command or option raises click's error."""
    words = line.split("#")[0].split()[1:]
    door = DOORS.get(words[0])
    command = typer.main.get_command(import_module(door[0]).app if door else app)
    words = words[1:] if door else words
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return bool(command.make_context(line, words))
