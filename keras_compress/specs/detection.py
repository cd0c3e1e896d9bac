"""`DetectionPostProcess`: the op behind a detector's heads that turns them into detections."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from keras_compress._shared import checks
from keras_compress.specs.fields import read_config, set_field

Anchor = tuple[float, float, float, float]
"""Center (y, x), height and width, as fractions of the image."""

OP = "TFLite_Detection_PostProcess"
"""The custom op, by the name that LiteRT and TFLite Micro have its kernel under."""

OUTPUTS = (OP, f"{OP}:1", f"{OP}:2", f"{OP}:3")
"""Boxes, classes, scores and the number of detections, by the names that TF1 gave them."""

_OWNER = "DetectionPostProcess"
_ANCHORS = "rows of (center y, center x, height, width), finite, with height and width above 0"


@dataclasses.dataclass(frozen=True)
class DetectionPostProcess:
    """Put TFLite_Detection_PostProcess behind a detector's two heads: the file gives detections.

    Box encodings are those of the Object Detection API (Faster R-CNN's box coder [1]): with a row
    `(ty, tx, th, tw)` of the boxes and its anchor `(y, x, h, w)` the detected box has its center at
    `(ty / y_scale * h + y, tx / x_scale * w + x)` and the size `(exp(th / h_scale) * h,
    exp(tw / w_scale) * w)`. Class scores are what the model gives, probabilities mostly: nothing is
    done to them but choosing.

    The file's outputs, float32, are then called as TF1 called them, n being `max_detections *
    max_classes_per_detection`: `TFLite_Detection_PostProcess` (boxes [1, n, 4] as `(ymin, xmin,
    ymax, xmax)`), `:1` (classes [1, n], counted from 0 without the background), `:2` (scores
    [1, n]) and `:3` (how many rows count [1]). **Rows behind that number are not written** by the
    op and mean nothing.

    Args:
        anchors: array-like [N, 4], one for each row of the heads: (center y, center x, height,
            width), as fractions of the image, or in whatever unit the detected boxes are to have.
        max_detections: at most so many boxes.
        max_classes_per_detection: how many classes each of them is given with; of the fast
            suppression only.
        detections_per_class: at most so many of one class, of the regular suppression only.
        use_regular_nms: suppress within each class by itself; False: a box for its best class only,
            against all others (which is faster).
        nms_score_threshold: what scores less is no detection.
        nms_iou_threshold: boxes that overlap a better one by more are suppressed; in (0, 1].
        num_classes: None for as many as the scores have. One less says that the first column is the
            background, which is left out.
        y_scale, x_scale, h_scale, w_scale: what the encodings are divided by; above 0.
        boxes, scores: the names of the model's outputs, [N, 4] and [N, classes] without the batch.
            None: the first and the second.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value outside its range, or one name without the other.

    References:
        [1] Ren et al., "Faster R-CNN", 2015, arXiv:1506.01497, equation 2.
    """

    anchors: tuple[Anchor, ...] = dataclasses.field(repr=False)
    _: dataclasses.KW_ONLY
    max_detections: int = 10
    max_classes_per_detection: int = 1
    detections_per_class: int = 100
    use_regular_nms: bool = False
    nms_score_threshold: float = 1e-8
    nms_iou_threshold: float = 0.6
    num_classes: int | None = None
    y_scale: float = 10.0
    x_scale: float = 10.0
    h_scale: float = 5.0
    w_scale: float = 5.0
    boxes: str | None = None
    scores: str | None = None

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            anchors: Any,
            *,
            max_detections: int = 10,
            max_classes_per_detection: int = 1,
            detections_per_class: int = 100,
            use_regular_nms: bool = False,
            nms_score_threshold: float = 1e-8,
            nms_iou_threshold: float = 0.6,
            num_classes: int | None = None,
            y_scale: float = 10.0,
            x_scale: float = 10.0,
            h_scale: float = 5.0,
            w_scale: float = 5.0,
            boxes: str | None = None,
            scores: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        set_field(self, "anchors", _check_anchors(self.anchors))
        for name in ("max_detections", "max_classes_per_detection", "detections_per_class"):
            set_field(self, name, checks.check_int(_OWNER, name, getattr(self, name), minimum=1))
        checks.check_bool(_OWNER, "use_regular_nms", self.use_regular_nms)
        for name, low in (("nms_score_threshold", 0.0), ("nms_iou_threshold", None)):
            set_field(self, name, _check_threshold(name, getattr(self, name), low))
        if self.num_classes is not None:
            classes = checks.check_int(_OWNER, "num_classes", self.num_classes, minimum=1)
            set_field(self, "num_classes", classes)
        for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
            scale = float(checks.check_positive(_OWNER, name, getattr(self, name)))
            set_field(self, name, scale)
        for name, other in (("boxes", "scores"), ("scores", "boxes")):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                raise checks.type_error(_OWNER, name, given, "the name of an output, or None")
            if given is None and getattr(self, other) is not None:
                rule = f"the name of an output too, where `{other}` is one"
                raise checks.value_error(_OWNER, name, given, rule)
            if given is not None and given == getattr(self, other):
                raise checks.value_error(_OWNER, name, given, f"another output than `{other}`")

    def heads(self, shapes: dict[str, Sequence[int]]) -> tuple[str, str]:
        """The names of the boxes and of the scores among a model's outputs.

        Args:
            shapes: name -> shape with the batch, in the model's order.

        Raises:
            ValueError: there are not these two and no others, or their shapes do not fit each
                other, the anchors or `num_classes`.
        """
        names = (self.boxes, self.scores)
        wanted = [name for name in names if name is not None] or list(shapes)[:2]
        if len(wanted) != 2 or set(wanted) != set(shapes):
            rule = "for a model of two outputs, boxes and scores"
            given = f"outputs {list(shapes)}"
            if self.boxes is not None:
                given += f", boxes={self.boxes!r}, scores={self.scores!r}"
            raise ValueError(f"{_OWNER}: this must be {rule}. Received: {given}")
        boxes, scores = wanted
        count = len(self.anchors)
        for name, last in ((boxes, "4"), (scores, "classes")):
            shape = tuple(shapes[name])
            if len(shape) != 3 or shape[:2] != (1, count) or (last == "4" and shape[2] != 4):
                rule = f"one for each row of the output {name!r} of shape (1, anchors, {last})"
                given = f"{count} anchors for {name}={shape}"
                raise ValueError(f"{_OWNER}: `anchors` must be {rule}. Received: {given}")
        columns = shapes[scores][2]
        if self.num_classes is not None and columns - self.num_classes not in (0, 1):
            rule = f"{columns}, the columns of {scores!r}, or one less with the background first"
            raise checks.value_error(_OWNER, "num_classes", self.num_classes, rule)
        return boxes, scores

    def options(self, columns: int) -> dict[str, int | float | bool]:
        """What the op is given besides its inputs, for scores of so many columns."""
        left_out = ("anchors", "boxes", "scores")
        names = [each.name for each in dataclasses.fields(self) if each.name not in left_out]
        found = {name: getattr(self, name) for name in names}
        return {**found, "num_classes": self.num_classes or columns}

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back equal."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**config, "anchors": [list(anchor) for anchor in self.anchors]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        return cls(**read_config(cls, config))


def _check_anchors(value: Any) -> tuple[Anchor, ...]:
    rule = f"array-like of shape (N, 4): {_ANCHORS}"
    if hasattr(value, "numpy"):
        value = value.numpy()
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list | tuple) or not all(isinstance(r, list | tuple) for r in rows):
        raise checks.type_error(_OWNER, "anchors", value, rule)
    if not rows:
        raise checks.value_error(_OWNER, "anchors", value, rule)
    found = []
    for row in rows:
        if len(row) != 4 or not all(map(checks.is_number, row)):
            raise checks.value_error(_OWNER, "anchors", row, rule)
        if not all(map(math.isfinite, row)) or row[2] <= 0 or row[3] <= 0:
            raise checks.value_error(_OWNER, "anchors", row, rule)
        y, x, height, width = map(float, row)
        found.append((y, x, height, width))
    return tuple(found)


def _check_threshold(name: str, value: object, low: float | None) -> float:
    rule = "a number in (0, 1]" if low is None else "a number in [0, 1]"
    if not checks.is_number(value):
        raise checks.type_error(_OWNER, name, value, rule)
    if not 0 <= value <= 1 or (low is None and value == 0):
        raise checks.value_error(_OWNER, name, value, rule)
    return float(value)
