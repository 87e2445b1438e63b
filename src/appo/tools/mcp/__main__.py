"""`python -m appo.tools.mcp ADDRESS | PROGRAM ARGUMENT ..`: a server's tools, as the policy sees them."""

import sys

from appo.tools.mcp.server import main

if __name__ == "__main__":
    main(sys.argv[1:])
