"""`python -m appo.tools.mcp ADDRESS | PROGRAM ARGUMENT ..`: a server's tools, as the policy sees them."""

import sys

from appo.errors import MissingPackage

try:
    from appo.tools.mcp.server import main
except MissingPackage as error:
    sys.exit(str(error))

if __name__ == "__main__":
    main(sys.argv[1:])
