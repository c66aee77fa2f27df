"""Entry point of `rankwise` and `python -m rankwise`."""

import sys

from .runtime import interrupt


def main() -> int:
    """Run the command line; return the exit code."""
    interrupt.leaves()
    from .runtime import cli  # which takes the time of all that it imports

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
