"""What every search shares: the page, the check of a query, and how results read.

`Search` turns a subclass's `find(query) -> pages` into the tool `search(query) -> text`. Results read
`Page 1: title`, a line break, the text; a blank line separates pages, so there are none within a page.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from appo.data.rows import Row, find_field
from appo.errors import UserError
from appo.tools import ToolError

NO_RESULTS = "No search results found."  # as in the paper's released search cache
TEXT_FIELDS = ("text", "contents", "body", "content", "passage", "snippet")
# Wikipedia dumps made for retrieval keep the title in the first line of `contents`, in quotation marks.
_QUOTED_TITLE = re.compile(r'"(.+)"\n\s*(\S.*)', re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A result, or a document of a corpus. The title may be empty."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Limits:
    """How much a search gives and takes.

    Args:
        top_k: Pages per result.
        page_chars: Characters of one page, title included, behind its `Page 1: `.
        max_chars: Characters of a result. Ten full pages fit, and so do they into a `ToolRunner`'s result.
        query_chars: Characters of a query.

    Raises:
        ValueError: for a limit that leaves no room for a result and the note that it was cut.
    """

    top_k: int = 10
    page_chars: int = 800
    max_chars: int = 8192
    query_chars: int = 500

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 1 if field.name == "top_k" else 50
            if value < least:
                raise UserError(f"{field.name} must be at least {least}, got {value}.")


class Search:
    """A search whose method `search` is a tool: `tools=[LocalSearch("wiki.jsonl").search]`.

    Usable from many threads at once. A deep copy is the search itself, as it has no state that an episode could
    change; so an environment that holds one can be copied for a branch.
    """

    limits: Limits

    def search(self, query: str) -> str:
        """Searches for pages and returns those that fit best.

        Args:
            query: What to look for, in a few words.

        Returns:
            The pages found, the best one first.
        """
        pages = self.find(clean_query(query, self.limits.query_chars))
        return show_pages(pages, self.limits) if pages else NO_RESULTS

    def find(self, query: str) -> list[Page]:
        """The pages for a query, best first, at most `limits.top_k` of them needed.

        Args:
            query: Not empty, and without line breaks.

        Raises:
            ToolError: where the search fails.
        """
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> "Search":
        return self


def clean_query(query: str, max_chars: int) -> str:
    """A query in one line that can be encoded.

    Raises:
        ToolError: if nothing is left of it, or too much.
    """
    if not isinstance(query, str):
        raise ToolError("the query must be a text")
    query = re.sub(r"[\s\x00-\x1f\x7f]+", " ", _encodable(query)).strip()
    if not query:
        raise ToolError("the query is empty; write what to look for")
    if len(query) > max_chars:
        raise ToolError(
            f"the query has {len(query)} characters, but at most {max_chars} are allowed; write a few words"
        )
    return query


def show_pages(pages: Sequence[Page], limits: Limits) -> str:
    """Pages as the policy reads them. Where one of them or the whole is too long, its end gives way to a note."""
    blocks = []
    for number, page in enumerate(pages[: limits.top_k], 1):
        body = re.sub(r"\s*\n\s*", "\n", _encodable(f"{page.title}\n{page.text}").strip())
        blocks.append(f"Page {number}: {_cut(body, limits.page_chars)}")
    return _cut("\n\n".join(blocks), limits.max_chars)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    kept = limit - len(f" ... [{len(text)} characters cut]")
    return f"{text[:kept]} ... [{len(text) - kept} characters cut]"


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON may hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def page_of(row: Row) -> Page:
    """The page in a row with a text and perhaps a title.

    Raises:
        ValueError: in words that fit behind a row's place.
    """
    key, title_key = find_field(row, TEXT_FIELDS), find_field(row, ("title",))
    text, title = row[key] if key else None, row[title_key] if title_key else ""
    if not isinstance(text, str) or not text.strip():
        raise UserError("no text, which `text`, `contents` or `body` should hold")
    if not isinstance(title, str):
        raise UserError("its title is no text")
    return _page(text, title)


def lenient_page(row: Any) -> Page | None:
    """The page in whatever a server calls a document, with numbers, lists and what is nested in it.

    Returns:
        None where there is neither a text nor a title.
    """
    try:
        if isinstance(row, list):  # together with its score
            row = next((part for part in row if isinstance(part, dict)), None)
        title = ""
        while isinstance(row, dict):
            title = _plain(row.get(find_field(row, ("title",)) or "")) or title
            if not isinstance(row.get("document"), dict):
                break
            row = row["document"]
        text = _plain(row) if isinstance(row, dict) else ""
    except RecursionError:
        return None
    return _page(text, title) if text or title else None


def _plain(value: Any) -> str:
    """The text that a JSON value holds."""
    if isinstance(value, dict):
        key = find_field(value, (*TEXT_FIELDS, "document"))
        return _plain(value[key]) if key else ""
    if isinstance(value, list):
        return "\n".join(filter(None, map(_plain, value)))
    return str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def _page(text: str, title: str) -> Page:
    quoted = None if title else _QUOTED_TITLE.match(text)
    return Page(quoted[2], quoted[1]) if quoted and "\n" not in quoted[1] else Page(text, title)
