"""`python -m avslib.cli`."""

from avslib.cli.app import main

if __name__ == "__main__":
    main()
