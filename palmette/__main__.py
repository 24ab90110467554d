"""``python -m palmette`` is ``palmette``."""

import sys

from palmette.cli import main

if __name__ == "__main__":
    sys.exit(main())
