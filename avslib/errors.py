"""The one exception that a user of avslib is meant to read."""


class AvsError(ValueError):
    """Bad input, told in one sentence: what is wrong and where, what was expected, what to do.

    The command line prints the sentence and exits with `exit_code`; from Python it is an ordinary ``ValueError``.
    """

    exit_code = 2

    def __init__(self, message: str = ""):
        # PyTorch raises a worker's error again as the text of its whole traceback; the sentence stands at its end
        if message.startswith("Caught AvsError in DataLoader worker"):
            message = message.rpartition("AvsError: ")[2].strip()
        super().__init__(message)
