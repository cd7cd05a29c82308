"""`avs`: the commands put together, and what becomes of their errors."""

import logging
import sys
import traceback
from typing import Annotated

import typer

from avslib.cli import ablate, data, doctor, predict, study, train, weights
from avslib.cli.doors import DOORS, PASS_ON, door
from avslib.cli.last_resort import as_avs_error
from avslib.cli.options import NAMES

HELP = "ECMVAE for audio-visual segmentation: build data, train, score, print tables."
VERBOSE = "Log to stderr what is read, kept and decided, and print the traceback of an error; -vv logs more."

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=NAMES)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.command("train")(train.train_command)
app.command("eval")(train.eval_command)
app.command("predict")(predict.predict_command)
app.command("config")(train.config_command)
app.command("demo")(study.demo_command)
app.command("ablate")(ablate.ablate_command)
app.command("doctor")(doctor.doctor_command)
app.command("robustness")(study.robustness_command)
app.command("table")(study.table_command)
for name, (_, text) in DOORS.items():
    app.command(name, help=text, add_help_option=False, context_settings=PASS_ON)(door(name))


@app.callback(help=HELP)
def common_options(verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help=VERBOSE)] = 0) -> None:
    """Set up logging: Python users get the same from ``logging.basicConfig()`` and the logger "avslib"."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("avslib").setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])


def main() -> None:
    """Entry point: an error becomes one sentence with its code on stderr, and its exit code (2 for bad input)."""
    if hasattr(sys.stdout, "reconfigure"):  # a letter that the locale lacks (C, say) must not end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="avs")
    except Exception as error:
        if logging.getLogger("avslib").isEnabledFor(logging.INFO):
            traceback.print_exc()
        sentence = as_avs_error(error)
        print(f"avs: {sentence} [{sentence.code}]", file=sys.stderr)
        sys.exit(sentence.exit_code)
