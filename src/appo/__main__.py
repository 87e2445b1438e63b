"""`python -m appo`: the same as `appo`."""

import sys

from appo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
