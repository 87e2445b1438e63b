"""Lists, tuples, intervals and sets as brackets and members. Left out on purpose: comparing them (`equality.py`)."""

import re

from appo.rewards._normalise import closing_brackets

_SEPARATOR = r"[,;]|\s(?:and|or)\s"


def split_list(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the members of a normalised list with at least two; None for anything else.

    The brackets are two characters ("()", "[)", "{}" for a set), or none for members that are merely written in a row.
    In a row or a set, `a \\pm b` is two members.
    """
    kind, inner = "", text
    end = closing_brackets(text).get(0)
    for opening in ("\\{", "(", "["):
        if end is not None and text.startswith(opening) and text[end:] in (")", "]", "\\}"):
            kind, inner = opening[-1] + text[-1], text[len(opening) : end]
    if "\\begin" in inner:
        return None
    members = split_outside(inner, _SEPARATOR)[::2]
    if kind in ("", "{}"):
        members = [one for member in members for one in _both_signs(member)]
    return (kind, members) if len(members) > 1 else None


def split_outside(text: str, separator: str) -> list[str]:
    """At the matches of a pattern outside all brackets; the separators stand between the pieces."""
    closing = closing_brackets(text)
    pieces, start, outside = [], 0, 0
    for match in re.finditer(rf"(?P<separator>{separator})|\\?[(\[{{]", text):
        if match.start() < outside:
            continue
        if match["separator"]:
            pieces += [text[start : match.start()].strip(), match[0].strip()]
            start = match.end()
        else:
            outside = closing.get(match.start(), match.start()) + 1
    return [*pieces, text[start:].strip()]


def _both_signs(member: str) -> list[str]:
    if member.count("\\pm") != 1:
        return [member]
    before, after = (part.strip() for part in member.split("\\pm"))
    plus = "+" if before and before[-1] not in "=" else ""
    return [f"{before} {plus}{after}".strip(), f"{before} -{after}".strip()]
