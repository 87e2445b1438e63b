"""`UserError`: a mistake of the user's, told in one sentence.

The commands print it and exit with code 2; every other exception keeps its traceback, because it is a fault of code.
"""


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, its value and the remedy."""
