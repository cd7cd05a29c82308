"""What `avs -v` says: Python's own logging, a line a record on stderr, so that a log file can be searched."""

import logging


def show_logs(verbose: int) -> None:
    """Show the package's log records: 0 warnings alone, 1 what is read, kept and decided (INFO), 2 or more all of them.

    Python users get the same by ``logging.basicConfig()`` and ``logging.getLogger("avslib").setLevel("INFO")``.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("avslib").setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
