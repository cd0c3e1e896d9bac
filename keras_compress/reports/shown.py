"""How a result shows itself: printed, in a terminal, in a notebook.

A result is a few lines and tables, in order; each face is made of the same ones.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib.util
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import jinja2
    import rich.table
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderableType

WIDTH = 100
"""Columns of a table where nobody knows how wide the terminal is; longer cells are folded."""

NAME = 16
"""Characters of a name that are left on one line, however narrow the terminal."""
WIDEST = 10_000

Weight = Literal["title", "warning", "error", ""]
_STYLES: dict[Weight, str] = {"title": "bold", "warning": "yellow", "error": "red", "": ""}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of text; `weight` says what it is to its reader."""

    text: str
    weight: Weight = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells under headings.

    Attributes:
        columns: the headings.
        rows: as many cells each.
        left: so many columns, from the first on, are names and set to the left; numbers go right.
        unfolded: make it as wide as it takes, whatever the terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    unfolded: bool = False

    def __str__(self) -> str:
        return as_text(iter([self]))

    @property
    def narrowest(self) -> int:
        """Columns of a terminal without which a number would be cut, or no name could be read."""
        return 1 + sum(3 + width for width in self._widths(NAME))

    def _widths(self, name: int) -> list[int]:
        """Of the longest cell of each column; of names and headings, which can be folded, at most
        so much.
        """
        widths = [min(len(heading), name) for heading in self.columns]
        for row in self.rows:
            for i, cell in enumerate(row):
                widths[i] = max(widths[i], min(len(cell), name) if i < self.left else len(cell))
        return widths

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        import rich.text

        if self.narrowest <= options.max_width:
            yield self._drawn()
        else:  # rich would cut it: its lines are folded as a whole, and nothing is lost
            text = self.text(options.max_width, options.encoding)
            yield rich.text.Text(text, overflow="fold", no_wrap=False)

    def _drawn(self) -> rich.table.Table:
        import rich.table

        drawn = rich.table.Table(header_style="bold")
        for position, (heading, least) in enumerate(
            zip(self.columns, self._widths(NAME), strict=True)
        ):
            # A long name is folded, never cut: what stands there is what one would look for.
            justify: Literal["left", "right"] = "left" if position < self.left else "right"
            drawn.add_column(heading, justify=justify, overflow="fold", min_width=least)
        for row in self.rows:
            drawn.add_row(*map(_literally, row))
        return drawn

    def text(self, width: int, encoding: str) -> str:
        """Plain characters without colour, in lines of at most `width`, or as wide as numbers and
        names need.
        """
        import rich.console

        width = max(width, self.narrowest)
        if self.unfolded:
            # Beside long names of layers nothing would be left of the other columns.
            width = max(width, 1 + sum(3 + each for each in self._widths(WIDEST)))
        # In a notebook rich displays what it is told to print, to whatever file.
        console = rich.console.Console(
            file=_Page(encoding), width=WIDEST, color_system=None, force_jupyter=False
        )
        drawn = self._drawn()
        if console.measure(drawn).maximum > width:
            drawn.width = width  # of the table: what does not fit a console is cut
        with console.capture() as captured:
            console.print(drawn)
        return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


Part = Line | Table


class Shown:
    """A result that has a face: `print`, a console of rich and a notebook show the same."""

    def _parts(self) -> Iterator[Part]:
        """What it is made of; the first is a line that stands for it all."""
        raise NotImplementedError

    def _picture(self) -> bytes | None:
        """A PNG that a notebook shows below; None where there is none."""
        return None

    def __str__(self) -> str:
        return as_text(self._parts())

    def __repr__(self) -> str:
        first = next(self._parts(), None)
        said = first.text if isinstance(first, Line) else ""
        return f"<{type(self).__name__}: {said}>"

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        import rich.text

        for part in self._parts():
            if isinstance(part, Table):
                yield part
            else:
                yield rich.text.Text(part.text, style=_STYLES[part.weight])

    def _repr_html_(self) -> str:
        return as_html(self._parts(), self._picture())


def left_out_lines(left_out: dict[str, dict[str, str]]) -> Iterator[Line]:
    """Per spec: the layers that one reason leaves out, in a line."""
    for what, reasons in left_out.items():
        for why in dict.fromkeys(reasons.values()):
            paths = ", ".join(path for path, each in reasons.items() if each == why)
            yield Line(f"left out of {what}: {paths} ({why})")


def as_text(parts: Iterator[Part]) -> str:
    """Parts as `print` writes them: as wide as the terminal, in characters that it has."""
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    encoding = _encoding()
    lines = (part.text(width, encoding) if isinstance(part, Table) else part.text for part in parts)
    return printable("\n".join(lines))


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def png_of(plot: Callable[[], Figure]) -> bytes | None:
    """The picture that a result plots; None without matplotlib."""
    if not can_plot():
        return None
    picture = io.BytesIO()
    plot().savefig(picture, format="png", dpi=90)
    return picture.getvalue()


def as_html(parts: Iterator[Part], picture: bytes | None = None) -> str:
    """Parts as a piece of HTML, with a PNG below."""
    drawing = None if picture is None else base64.b64encode(picture).decode()
    template = _templates().get_template("parts.html")
    return template.render(parts=list(parts), picture=drawing)


def as_page(title: str, html: str, boxes: dict[str, str]) -> str:
    """A whole HTML file that needs no other: a piece of HTML, and boxes (heading -> preformatted
    text) that open.
    """
    return _templates().get_template("page.html").render(title=title, html=html, boxes=boxes)


def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("keras_compress", "reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


# --- characters


class _Page(io.StringIO):
    """A file in memory that rich takes for one of this encoding: outside of UTF-8 it draws tables
    with ASCII.
    """

    def __init__(self, encoding: str):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # rich asks for it, a StringIO has none
        return self._encoding


def _encoding() -> str:
    """That of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def printable(text: str) -> str:
    """A text with an escape where standard output lacks a character: better than to fail when all
    is done.
    """
    encoding = _encoding()
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """Print a line that is worth no training: not where the terminal is gone, or lacks a letter."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), flush=True)


def _literally(cell: str) -> RenderableType:
    """A cell as it is: no markup, no emoji in a layer's name."""
    import rich.text

    return rich.text.Text(cell)
