"""Names beside the points of a picture, of which none lies on another or on a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 7.0
"""Of the letters, in points, as all lengths here."""
_DISTANCES = (0.0, 5.0, 11.0, 19.0, 29.0, 41.0)
_DIRECTIONS = 16
_NEAR = 5.0  # between marker and label; from there on a line tells whose it is


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    radii: Sequence[float],
) -> None:
    """Writes a label beside each point, or where there is room, with a line to its point.

    Call it when all else is drawn: what fits depends on where the axes have come to lie. The first
    have the first choice. Where all around is taken, one is written across others.

    Args:
        figure, axes: where the points are drawn.
        points: in units of the data.
        labels: one for each.
        radii: of their markers.
    """
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    at = scale * axes.transData.transform(np.asarray(points, float))
    frame = scale * axes.get_window_extent().get_points()
    taken = [
        np.concatenate([point - radius, point + radius])
        for point, radius in zip(at, radii, strict=True)
    ]
    for point, data, label, radius in zip(at, points, labels, radii, strict=True):
        half = np.array([0.32 * SIZE * len(label) + 1, 0.55 * SIZE])
        offset = _room(point, half, radius, np.array(taken), frame)
        taken.append(np.concatenate([point + offset - half, point + offset + half]))
        far = np.hypot(*np.maximum(np.abs(offset) - half, 0)) > radius + _NEAR
        annotation = axes.annotate(
            label,
            data,
            xytext=(float(offset[0]), float(offset[1])),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=SIZE,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "dimgray"} if far else None,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],  # lines pass below
            zorder=5,
        )
        annotation.set_in_layout(False)


def _room(
    point: np.ndarray, half: np.ndarray, radius: float, taken: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """The offset, of those that are tried, at which a label lies inside the frame and on nothing
    that is taken; the first of them where there is none.
    """
    angles = np.pi / 2 - 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS  # from above, clockwise
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # A wide label is farther to the side than a flat one is above.
    offsets = np.concatenate([around * (half + radius + distance) for distance in _DISTANCES])
    low, high = point + offsets - half, point + offsets + half
    free = (low >= frame[0]).all(1) & (high <= frame[1]).all(1)
    apart = (low[:, None] >= taken[None, :, 2:]) | (high[:, None] <= taken[None, :, :2])
    free &= apart.any(2).all(1)
    chosen: np.ndarray = offsets[np.argmax(free)]
    return chosen
