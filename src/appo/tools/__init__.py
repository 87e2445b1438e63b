"""Tools that a policy may call: plain functions with type hints and Google-style docstrings, as TRL reads them."""


class ToolError(RuntimeError):
    """A failure whose message is, word for word, what the policy should read."""
