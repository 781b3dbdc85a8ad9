"""Many comparisons at once: the p-values of paired differences, corrected by Holm."""

from collections.abc import Sequence

from scipy.special import stdtr, stdtrit

from experiments.lib import claims, markdown
from experiments.lib.results import Results
from fedsparsify_jax.report.results import Difference

LEVEL = 0.95


def p_value(gap: Difference) -> float:
    """Returns the two-sided p-value of a paired difference, by Student's t.

    Args:
      gap: of two seeds or more, with half its 95 % interval.

    Example:
      An interval that just touches 0 is a p-value of 5 %:

      >>> round(p_value(Difference(0.02, 0.02, seeds=5)), 4)
      0.05
    """
    assert gap.half is not None
    if gap.half == 0:
        return float(gap.mean == 0)
    freedom = gap.seeds - 1
    error = gap.half / stdtrit(freedom, 0.5 + LEVEL / 2)
    return float(2 * stdtr(freedom, -abs(gap.mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for being many, by Holm's method.

    The smallest of n is multiplied by n, the next by n - 1, and none may be smaller
    than the one before it. (S. Holm, Scandinavian Journal of Statistics 6, 1979.)

    >>> holm([0.03, 0.01, 0.04])
    [0.06, 0.03, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def headline(results: Results, row: str, others: Sequence[str]) -> str:
    """Returns a table of all comparisons of a row as one family of tests.

    Args:
      results: of the table.
      row: a row's key.
      others: keys of those to subtract.
    """
    comparisons = claims.compared(results, row, others)
    if not comparisons:
        return "One seed or none: nothing can be said of noise."
    raw = [p_value(each.gap) for each in comparisons]
    rows = [
        [
            each.other,
            claims.SHORT.get(each.partition, each.partition),
            markdown.percent(each.sparsity),
            each.gap.text(results.scale),
            f"{p:.2g}",
            f"{corrected:.2g}",
            _verdict(each.gap, corrected),
        ]
        for each, p, corrected in zip(comparisons, raw, holm(raw), strict=True)
    ]
    head = ["minus", "clients", "sparsity", "points", "p", "p by Holm", "verdict"]
    return markdown.table(head, rows)


def _verdict(gap: Difference, corrected: float) -> str:
    if corrected > 1 - LEVEL:
        return "open"
    return "ahead" if gap.mean > 0 else "behind"
