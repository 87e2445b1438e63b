"""`python -m appo.doctor`."""

import sys

from appo.doctor.report import main

if __name__ == "__main__":
    sys.exit(main())
