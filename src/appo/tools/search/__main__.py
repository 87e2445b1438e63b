"""`python -m appo.tools.search CORPUS "the query"`: what a search finds."""

import sys

from appo.tools.search.bm25 import main

if __name__ == "__main__":
    main(sys.argv[1:])
