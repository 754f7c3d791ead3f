"""The best rows for a query, in the exact order.

The order is that of the dot products of the fp16 rows with the float32 query, summed in double
precision and rounded to single once; equal ones are in the order of their rows. A pass in single
precision finds every row that can be among the best, by the bound of its error, and these few are
computed again.
"""

from __future__ import annotations

import numpy as np

from pipeline.search.dot_products import dot_error, dot_products, exact_products

UNIT = 1.01  # longest row: half precision changes the length of a unit embedding
FEW = 0.25  # share of rows below which they are gathered rather than all read
GATHERED = 1 << 16  # rows that are copied at a time
COMPUTED = 1 << 12  # rows that are computed again at a time


def top_rows(
    rows: np.ndarray,
    query: np.ndarray,
    k: int,
    chosen: np.ndarray | None = None,
    left_out: np.ndarray | None = None,
    group: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the highest dot products, one of each group.

    Args:
        rows: float16 [N, D] of unit length, C-contiguous. A row that is not finite is none.
        query: float32 [D].
        k: Number of rows.
        chosen: Sorted numbers of the groups that are searched; None searches all.
        left_out: Numbers of groups that are not searched.
        group: Rows of a group, which lie together; the best row stands for its group.

    Returns:
        Numbers of the rows, int64 [K], best first and K at most `k`, and their dot products,
        float32 [K].
    """
    products = _products(rows, query, chosen, group)
    if left_out is not None and len(left_out):
        products.reshape(-1, group)[left_out] = -np.inf
    products[~np.isfinite(products)] = -np.inf
    best = products.reshape(-1, group).max(axis=1)
    k = min(k, len(best))
    if k < 1:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    worst = float(np.partition(best, len(best) - k)[len(best) - k])
    floor = np.float32(worst - 2 * dot_error(UNIT, query))
    numbers = np.flatnonzero((products >= floor) & (products > -np.inf))
    scores = _computed(rows, query, numbers)
    order = np.lexsort((numbers, -scores))
    if group > 1:
        _, first = np.unique(numbers[order] // group, return_index=True)
        order = order[np.sort(first)]
    return numbers[order[:k]], scores[order[:k]]


def top_rows_of_many(
    rows: np.ndarray, queries: np.ndarray, k: int, left_out: np.ndarray | None = None
) -> np.ndarray:
    """Numbers of the best rows of several queries, int64 [Q, K], in single precision; for
    measurements, where one in millions may differ from `top_rows`.

    Args:
        rows: float16 [N, D], C-contiguous.
        queries: float32 [Q, D].
        k: Number of rows of a query, at most N.
        left_out: Numbers of rows that are not searched.
    """
    best = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    out = np.zeros(len(rows), bool)
    if left_out is not None:
        out[left_out] = True
    for start in range(0, len(rows), GATHERED):
        products = dot_products(rows[start : start + GATHERED], queries).T
        products[:, out[start : start + GATHERED]] = -np.inf
        best = np.concatenate([best, products], axis=1)
        ours = np.broadcast_to(np.arange(start, start + products.shape[1]), products.shape)
        numbers = np.concatenate([numbers, ours], axis=1)
        kept = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(best, kept, axis=1)
        numbers = np.take_along_axis(numbers, kept, axis=1)
    return numbers


def _products(
    rows: np.ndarray, query: np.ndarray, chosen: np.ndarray | None, group: int
) -> np.ndarray:
    """Dot products [N] in single precision; minus infinity for rows that are not chosen."""
    if chosen is None:
        return dot_products(rows, query)[:, 0]
    products = np.full(len(rows), -np.inf, np.float32)
    groups = products.reshape(-1, group)
    if len(chosen) > FEW * len(groups):
        groups[chosen] = dot_products(rows, query).reshape(-1, group)[chosen]
        return products
    grouped = rows.reshape(len(groups), group, -1)
    for start in range(0, len(chosen), GATHERED // group):
        part = chosen[start : start + GATHERED // group]
        gathered = grouped[part].reshape(-1, rows.shape[1])
        groups[part] = dot_products(gathered, query).reshape(-1, group)
    return products


def _computed(rows: np.ndarray, query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    scores = np.empty(len(numbers), np.float32)
    for start in range(0, len(numbers), COMPUTED):
        part = slice(start, start + COMPUTED)
        scores[part] = exact_products(rows[numbers[part]], query)
    return scores
