"""Tools that a policy may call: plain functions with type hints and Google-style docstrings, as TRL reads them."""
