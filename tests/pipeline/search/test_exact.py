"""The order of a search is exact: whatever the rows are, and however they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.search import dot_products as computing
from pipeline.search.dot_products import dot_error, dot_products, exact_products
from pipeline.search.exact import top_rows, top_rows_of_many
from tests.helpers.indexes import unit_rows


def brute(rows: np.ndarray, query: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """The best rows by dot products in double precision, rounded once; ties by row."""
    scores = [
        float(np.float32(sum(float(a) * float(b) for a, b in zip(row, query, strict=True))))
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda row: (-scores[row], row))[:k]
    return order, [scores[row] for row in order]


def near(count: int, dim: int, spread: float, seed: int) -> np.ndarray:
    """Unit rows around one direction: their scores differ in the last digits."""
    rows = unit_rows(1, dim, seed) + spread * unit_rows(count, dim, seed + 1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 60),
    dim=st.integers(2, 40),
    spread=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0]),
    twins=st.booleans(),
    k=st.integers(1, 70),
    seed=st.integers(0, 10_000),
)
def test_the_order_is_that_of_exact_dot_products(
    count: int, dim: int, spread: float, twins: bool, k: int, seed: int
) -> None:
    rows = near(count, dim, spread, seed)
    rows = np.concatenate([rows, rows]) if twins else rows
    query = unit_rows(1, dim, seed)[0]
    numbers, scores = top_rows(rows, query, k)
    wanted, wanted_scores = brute(rows, query, k)
    assert numbers.tolist() == wanted
    assert scores.tolist() == pytest.approx(wanted_scores, abs=6e-8)


@settings(deadline=None, max_examples=30)
@given(
    hnp.arrays(np.float16, (7, 5), elements=st.floats(-1, 1, width=16)),
    hnp.arrays(np.float32, 5, elements=st.floats(-1, 1, width=32)),
)
def test_the_error_of_the_fast_pass_is_within_its_bound(
    rows: np.ndarray, query: np.ndarray
) -> None:
    exact = rows.astype(np.float64) @ query.astype(np.float64)
    longest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    assert (
        np.abs(dot_products(rows, query)[:, 0] - exact).max() <= dot_error(longest, query) + 1e-45
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, query = unit_rows(5000, 24).astype(np.float16), unit_rows(1, 24, 1)[0]
    whole = top_rows(rows, query, 20)
    monkeypatch.setattr(computing, "BLOCK_BYTES", 24 * 2 * 7)
    parts = top_rows(rows, query, 20)
    assert whole[0].tolist() == parts[0].tolist() and whole[1].tolist() == parts[1].tolist()


def test_it_agrees_with_numpys_single_precision_where_scores_are_apart() -> None:
    rows, query = unit_rows(20_000, 64).astype(np.float16), unit_rows(1, 64, 9)[0]
    numpys = np.argsort(-(rows.astype(np.float32) @ query), kind="stable")[:10]
    assert top_rows(rows, query, 10)[0].tolist() == numpys.tolist()


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_chosen_rows_alone_are_found_and_those_left_out_are_not(share: float) -> None:
    rows, query = unit_rows(3000, 24).astype(np.float16), unit_rows(1, 24, 1)[0]
    chosen = np.flatnonzero(np.random.default_rng(2).random(3000) < share)
    left_out = chosen[::3]
    numbers, _ = top_rows(rows, query, 15, chosen, left_out)
    allowed = np.setdiff1d(chosen, left_out)
    best = allowed[np.lexsort((allowed, -exact_products(rows[allowed], query)))]
    assert numbers.tolist() == best[:15].tolist()


def test_a_group_counts_by_its_best_row_and_absent_rows_are_never_found() -> None:
    rows, query = unit_rows(40, 8).astype(np.float16), unit_rows(1, 8, 3)[0]
    rows[[3, 4, 20]] = np.nan
    rows[36:] = np.nan  # a whole group
    numbers, scores = top_rows(rows, query, 20, group=4)
    exact = np.nan_to_num(rows.astype(np.float64) @ query.astype(np.float64), nan=-np.inf)
    best = exact.reshape(10, 4).max(1)
    assert (numbers // 4).tolist() == np.argsort(-best, kind="stable")[:9].tolist()
    assert scores.tolist() == pytest.approx(np.sort(best)[::-1][:9].tolist(), abs=1e-6)


def test_nothing_is_found_in_nothing() -> None:
    query = unit_rows(1)[0]
    none = np.empty((0, len(query)), np.float16)
    assert len(top_rows(none, query, 5)[0]) == 0
    rows = unit_rows(3).astype(np.float16)
    assert len(top_rows(rows, query, 5, left_out=np.arange(3))[0]) == 0
    assert len(top_rows(rows, query, 5, chosen=np.empty(0, np.int64))[0]) == 0


def test_many_queries_have_the_rows_of_each() -> None:
    rows, queries = unit_rows(2000, 24).astype(np.float16), unit_rows(9, 24, 5)
    left_out = np.arange(0, 2000, 7)
    found = top_rows_of_many(rows, queries, 10, left_out)
    for query, numbers in zip(queries, found, strict=True):
        assert numbers.tolist() == top_rows(rows, query, 10, left_out=left_out)[0].tolist()
