"""Entry point of `python -m fastxent`, the command line."""

import sys

from fastxent.cli import main

sys.exit(main())
