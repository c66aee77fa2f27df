"""Entry point of `python -m rankwise`."""

import sys

from .runtime.cli import main

sys.exit(main())
