"""`python -m appo`: the same as `appo`."""

import os
import sys

if __name__ == "__main__":  # not in processes that are spawned, which take over the path as it is then
    if sys.path[0] == os.getcwd() and not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))  # as `appo` has it: what is installed comes first
    from appo.cli.main import main

    sys.exit(main())
