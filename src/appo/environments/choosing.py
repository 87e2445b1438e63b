"""Rows of a table for a training or an evaluation: as many as are asked for, in an order of the seed.

Left out on purpose: which rows are held out (`appo.data.content`).
"""

import logging
import random

from datasets import Dataset

from appo.errors import UserError

logger = logging.getLogger(__name__)


def choose(rows: Dataset, size: int, seed: int, field: str, source: str, empty: str) -> Dataset:
    """`size` rows in an order of that seed, or all where there are fewer, which is logged.

    Raises:
        UserError: `empty`, where there are none.
    """
    if not len(rows):
        raise UserError(empty)
    if size > len(rows):
        logger.warning("%s has %d rows, fewer than %s = %d: all of them are used.", source, len(rows), field, size)
    order = list(range(len(rows)))
    random.Random(f"rows {seed}").shuffle(order)
    return rows.select(order[:size])
