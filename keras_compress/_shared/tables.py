"""The one form of a table in printed text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

WIDTH = 100
"""Columns of a terminal that a table has to fit into; longer cells are folded."""


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, width: int = WIDTH
) -> str:
    """A table as text, plain characters without colour.

    Args:
        columns: the headings.
        rows: as many cells each.
        left: so many columns, from the first on, are names and set to the left; numbers go right.
        width: characters of a line, at most.
    """
    import rich.console
    import rich.table

    drawn = rich.table.Table()
    for position, heading in enumerate(columns):
        name = position < left
        # A long name is folded, never cut: what stands there is what one would look for.
        drawn.add_column(
            heading, justify="left" if name else "right", overflow="fold", no_wrap=not name
        )
    for row in rows:
        drawn.add_row(*row)
    text = io.StringIO()
    rich.console.Console(
        file=text, width=width, color_system=None, markup=False, emoji=False, highlight=False
    ).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
