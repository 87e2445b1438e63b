"""For an agent in an environment of its own, whose Python $VERIFIERS_PYTHON names (`make test-verifiers`)."""

import os

collect_ignore_glob = [] if "VERIFIERS_PYTHON" in os.environ else ["*.py"]
