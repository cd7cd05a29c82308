"""Commands that work only in a checkout: doors to `benchmarks` and `tools`, which are not in the wheel."""

from collections.abc import Callable
from importlib import import_module

import typer

from avslib.cli.options import require_beside

# name: the module whose `main` gets the arguments, and what the command does
DOORS = {
    "bench": ("benchmarks.command", "Compare speed and memory with a plain reference form, and write a record."),
    "notebooks": ("tools.notebooks_command", "Run the numbered notebooks, refresh stored outputs, build the book."),
}
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def door(name: str) -> Callable[[typer.Context], None]:
    """The command `name`, which passes its arguments on. Raises InstallError where there is no checkout."""

    def command(context: typer.Context) -> None:
        module = DOORS[name][0]
        require_beside(module.partition(".")[0], f"avs {name}")
        import_module(module).main(context.args)

    return command
