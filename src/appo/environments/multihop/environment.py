"""An episode: a search over the pages, which may be asked as often as the question has hops.

    environment = MultihopEnvironment(words_corpus())
    environment.reset(hops=1)
    environment.search("capital Kenya")

The limit makes a wrong search count: what it found nothing about cannot be looked up any more. `spare` searches beyond
it forgive as many.

Left out on purpose: a reward of its own; the answer is compared by a reward function (`task.py`).
"""

from typing import Any

from appo.environments.multihop.corpus import Corpus
from appo.tools.results import ToolError

MOST_WORDS = 16  # of a query


class MultihopEnvironment:
    """One episode.

    Args:
        corpus: The pages.
        spare: How many searches more than hops are allowed.
    """

    def __init__(self, corpus: Corpus, spare: int = 0) -> None:
        self._corpus, self._spare = corpus, spare
        self._left = spare

    def reset(self, hops: int, **row: Any) -> None:
        """Starts an episode.

        Args:
            hops: How many properties the question asks for.
            row: The other columns of the dataset; not needed.
        """
        self._left = int(hops) + self._spare

    def search(self, query: str) -> str:
        """Searches for a page.

        Args:
            query: A property and an entity, for example `capital of Kenya`.

        Returns:
            The page that fits best.
        """
        # In words that the small tokenizer knows; a search that was not made is none of those allowed.
        if not query.split():
            raise ToolError("the query is empty")
        if len(query.split()) > MOST_WORDS:
            raise ToolError("the query is too long")
        if self._left < 1:
            raise ToolError("no searches are left")
        self._left -= 1
        return self._corpus.search.search(query)

    def fork(self) -> "MultihopEnvironment":
        """Returns an independent copy in the present state."""
        copy = type(self)(self._corpus, self._spare)
        copy._left = self._left
        return copy
