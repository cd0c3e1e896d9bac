"""What a user gives for the inputs or outputs of a network: an array, a list in their order, or a
dict by name. The one reader of these three, with the one error text; and the rows of the arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from keras_compress._shared.checks import value_error


def by_name(
    owner: str,
    name: str,
    given: object,
    expected: Sequence[str],
    *,
    what: str = "inputs",
    rank: int | None = None,
    optional: Collection[str] = (),
) -> dict[str, object]:
    """`given` under the `expected` names, in their order.

    Args:
        owner, name: whom and which argument to name in the error.
        expected: the names; where there is one only, its array may stand for itself.
        what: they are names of.
        rank: of a whole array where one is expected, rows included: it tells the list that holds
            this one array from the list that is it. None: a list is the array.
        optional: the names that a dict may leave out.

    Raises:
        ValueError: other names, or another number of arrays.
    """
    if isinstance(given, Mapping):
        if set(expected) - set(optional) <= set(given) <= set(expected) and given:
            return {each: given[each] for each in expected if each in given}
        received: object = sorted(map(str, given))
    elif len(expected) > 1:
        if isinstance(given, list | tuple) and len(given) == len(expected):
            return dict(zip(expected, given, strict=True))
        received = _counted(given)
    elif isinstance(given, list | tuple) and _is_of_arrays(given, rank):
        if len(given) == 1:
            return {expected[0]: given[0]}
        received = _counted(given)
    else:
        return {expected[0]: given}
    if len(expected) == 1:
        rule = (
            f"an array for the {what.removesuffix('s')} {expected[0]!r}, or a dict with this name"
        )
    else:
        rule = (
            f"an array for each of the {what} {list(expected)}, in a list of this order or a dict "
            "by name"
        )
    raise value_error(owner, name, received, rule)


def rows_of(owner: str, name: str, arrays: Mapping[str, np.ndarray]) -> int:
    """How many rows these arrays have along their first axis.

    Raises:
        ValueError: not all of them the same number.
    """
    rows = {each: len(array) if array.ndim else 0 for each, array in arrays.items()}
    if len(set(rows.values())) > 1:
        rule = "arrays with as many rows along the first axis as one another"
        raise value_error(owner, name, rows, rule)
    return next(iter(rows.values()))


def filled_up(array: np.ndarray, rows: int) -> np.ndarray:
    """So many rows: those of the array, and behind them its last one as often as it takes."""
    missing = rows - len(array)
    if not missing:
        return array
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _is_of_arrays(given: Sequence[object], rank: int | None) -> bool:
    """Whether a list holds whole arrays of this rank, and is none itself."""
    if rank is None or not given:
        return False
    if len(given) == 1:
        return np.ndim(given[0]) == rank  # type: ignore[arg-type]  # of anything
    ranks = {getattr(each, "ndim", None) for each in given}
    return rank in ranks or len(ranks) > 1  # as an image with its label


def _counted(given: object) -> str:
    kind = type(given).__name__
    return f"{kind} of {len(given)}" if isinstance(given, list | tuple) else kind
