"""Anchors, and what each of them is to say: the Object Detection API's box coder and matching."""

import numpy as np

RATIOS = (1.0, 2.0, 0.5)
SCALES = (10.0, 10.0, 5.0, 5.0)  # of y, x, height and width, as `DetectionPostProcess` has them
MATCH, IGNORE = 0.5, 0.4  # overlap from which an anchor stands for a box, or for nothing known


def anchors(grids, smallest=0.18, largest=0.6):
    """(center y, center x, height, width) in fractions of the image, [N, 4] in float32.

    At each place of a square grid, finest grid first, one anchor for each ratio of width to height
    and a square one between this scale and the next.
    """
    scales = np.geomspace(smallest, largest, len(grids))
    steps = scales[1] / scales[0]
    found = []
    for grid, scale in zip(grids, scales, strict=True):
        sizes = [(scale / ratio**0.5, scale * ratio**0.5) for ratio in RATIOS]
        sizes.append((scale * steps**0.5,) * 2)
        centers = (np.arange(grid) + 0.5) / grid
        found += [(y, x, h, w) for y in centers for x in centers for h, w in sizes]
    return np.array(found, "float32")


PER_PLACE = len(RATIOS) + 1


def corners(centered):
    """(ymin, xmin, ymax, xmax) of (center y, center x, height, width)."""
    center, half = centered[:, :2], centered[:, 2:] / 2
    return np.concatenate([center - half, center + half], axis=1)


def overlaps(one, other):
    """Intersection over union of every box with every other, [n, m]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (one, other)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def targets(boxes, classes, number, centered):
    """What the heads should say of an image: (boxes [N, 5], scores [N, classes + 1]).

    An anchor stands for the box that it overlaps most, from `MATCH` on, and every box has at least
    the anchor that overlaps it most, or the next one where that is another's. The last column of
    `boxes` is 1 for those, that of `scores` 0 for anchors that overlap a box too little to stand
    for it and too much for the background.

    Args:
        boxes: (ymin, xmin, ymax, xmax), [n, 4].
        classes: [n], counted from 0.
        number: of classes.
        centered: the anchors.
    """
    where = np.zeros((len(centered), 5), "float32")
    what = np.zeros((len(centered), number + 1), "float32")
    what[:, -1] = 1
    if not len(boxes):
        return where, what
    found = overlaps(corners(centered), boxes)
    best = found.argmax(axis=1)
    overlap = found.max(axis=1)
    taken = []
    for box in range(len(boxes)):  # two boxes can be nearest to one anchor
        free = np.where(np.isin(np.arange(len(centered)), taken), -1, found[:, box])
        taken.append(int(free.argmax()))
        best[taken[-1]], overlap[taken[-1]] = box, 1
    positive = overlap >= MATCH
    what[(overlap >= IGNORE) & ~positive, -1] = 0
    what[positive, classes[best[positive]]] = 1
    where[positive, :4] = encoded(boxes[best[positive]], centered[positive])
    where[positive, 4] = 1
    return where, what


MIRRORED = np.array([1, -1, 1, 1, 1], "float32")
"""By what the boxes of `targets` change when the image is turned from left to right."""


def mirrored(centered, axis):
    """For each anchor the one that lies where it would be in the image's mirror image, [N]."""
    image = centered.copy()
    image[:, axis] = 1 - image[:, axis]
    order, back = (np.lexsort(each.round(4).T) for each in (centered, image))
    places = np.empty(len(centered), int)
    places[back] = order
    return places


def encoded(boxes, centered):
    """Boxes (ymin, xmin, ymax, xmax) as seen from one anchor each."""
    size = boxes[:, 2:] - boxes[:, :2]
    center = boxes[:, :2] + size / 2
    offsets = (center - centered[:, :2]) / centered[:, 2:]
    return np.concatenate([offsets, np.log(size / centered[:, 2:])], axis=1) * SCALES
