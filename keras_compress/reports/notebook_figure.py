"""A figure that a notebook shows without being asked to. Imports matplotlib, which is an extra: so
import this module where something is drawn.
"""

from __future__ import annotations

import io

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = ["ENDINGS", "ConstrainedLayoutEngine", "NotebookFigure", "encoded"]

DPI = 120
ENDINGS = tuple(f".{name}" for name in sorted(FigureCanvasBase.get_supported_filetypes()))
"""What matplotlib can write."""


class NotebookFigure(Figure):
    """IPython shows a plain `Figure` as text, unless `%matplotlib inline` or pyplot came before; if
    they did, it draws this one as it does any other, once.
    """

    def _repr_png_(self) -> bytes:
        return encoded(self, "png")


def encoded(figure: Figure, kind: str) -> bytes:
    """The picture as a file of that kind, "png" or "pdf" say, would hold it."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=DPI)
    return picture.getvalue()
