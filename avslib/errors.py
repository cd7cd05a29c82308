"""The one exception that a user of avslib is meant to read."""


class AvsError(ValueError):
    """Bad input, told in one sentence: what is wrong and where, what was expected, what to do.

    The command line prints the sentence and exits with code 2; from Python it is an ordinary ``ValueError``.
    """
