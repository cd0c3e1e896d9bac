"""Detections of two files side by side, as a PNG."""

import matplotlib.figure
import matplotlib.patches
import numpy as np

from ssd import measure

COLOURS = ("#ffffff", "#ffd400", "#00e5ff", "#ff4fd8", "#7CFC00")
SHOWN = 0.35  # the least score


def save(path, images, names, files):
    """Images as columns, files as rows; boxes from a score of `SHOWN` on.

    Args:
        images: of bytes, a few.
        names: of the classes.
        files: title -> path.
    """
    figure = matplotlib.figure.Figure((2.6 * len(images), 2.8 * len(files)), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(files), len(images), squeeze=False))
    pixels = images.shape[1]
    for axes, (title, file) in zip(grid, files.items(), strict=True):
        found = measure.detections(file, images)
        for place, image, (boxes, classes, scores) in zip(axes, images, found, strict=True):
            place.imshow(image, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            for box, kind, score in zip(boxes * pixels - 0.5, classes, scores, strict=True):
                if score >= SHOWN:
                    _draw(place, box, f"{names[int(kind)]} {score:.2f}", int(kind))
        axes[0].set_ylabel(title, fontsize=12)
    figure.savefig(path, dpi=110)


def _draw(place, box, text, kind):
    top, left, bottom, right = box
    colour = COLOURS[kind % len(COLOURS)]
    size = (right - left, bottom - top)
    for width, edge in ((3, "black"), (1.5, colour)):
        place.add_patch(
            matplotlib.patches.Rectangle((left, top), *size, fill=False, lw=width, ec=edge)
        )
    background = {"facecolor": "black", "alpha": 0.6, "pad": 1, "edgecolor": "none"}
    place.text(
        left, top, text, color=colour, fontsize=7, va="bottom", bbox=background, clip_on=True
    )
