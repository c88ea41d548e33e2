"""Rows of parameters in which every two values meet, where all combinations of three and more would say no more."""

from __future__ import annotations

import itertools


def in_pairs(*choices):
    """Rows with a value of each choice, so that any two values of two choices stand together in a row.

    For code in which no three choices have to do with each other: any error that two values make together is seen. Each
    row is the first of those in which the most pairs meet that have not met before.
    """
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in itertools.product(*map(tuple, choices))}
    waiting, rows = set().union(*pairs.values()), []
    while waiting:
        row = max(pairs, key=lambda row: len(pairs[row] & waiting))
        waiting -= pairs[row]
        rows.append(row)
    return rows
