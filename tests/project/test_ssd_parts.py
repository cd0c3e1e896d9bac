"""The parts of `examples/ssd_mobilenet_v2.py`: data, anchors, losses, mAP."""

import json
import re
import sys

import numpy as np
import pytest
from helpers.pages import ROOT


@pytest.fixture(scope="module", autouse=True)
def found():
    """The package `ssd` lies beside the script that imports it."""
    sys.path.insert(0, str(ROOT / "examples"))
    yield
    sys.path.remove(str(ROOT / "examples"))


@pytest.fixture(scope="module")
def drawn(found):
    from ssd import shapes

    return shapes.draw(12, 64, 0)


@pytest.fixture(scope="module")
def centered(found):
    from ssd import anchors

    return anchors.anchors((8, 4, 2))


def test_what_is_drawn_is_the_same_for_one_seed(drawn):
    from ssd import coco, shapes

    images, annotations = drawn
    again, same = shapes.draw(12, 64, 0)
    np.testing.assert_array_equal(images, again)
    assert annotations == same
    assert not np.array_equal(images, shapes.draw(12, 64, 1)[0])
    coco.check(annotations, "drawn")  # every box lies in its image
    assert {each["category_id"] for each in annotations["annotations"]} == {1, 2, 3, 4, 5}


def test_a_folder_in_cocos_form_is_read_as_it_was_written(drawn, tmp_path):
    from ssd import coco

    images, annotations = drawn
    coco.save(tmp_path / "set.json", tmp_path / "images", images, annotations)
    read, same = coco.load(tmp_path / "set.json", tmp_path / "images", 64)
    np.testing.assert_array_equal(read, images)
    assert same == annotations
    some, fewer = coco.load(tmp_path / "set.json", tmp_path / "images", 32, limit=3)
    assert some.shape == (3, 32, 32, 3)
    assert {each["image_id"] for each in fewer["annotations"]} == {0, 1, 2}
    assert abs(some.mean() - images[:3].mean()) < 2  # smaller, and not another image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [50.0, 10.0, 30.0, 20.0]},
            "must have its box (x, y, width, height) inside its image of 64 x 64 pixels. "
            "Received: bbox=[50.0, 10.0, 30.0, 20.0]",
        ),
        ({"bbox": [5.0, 5.0, 0.0, 9.0]}, "Received: bbox=[5.0, 5.0, 0.0, 9.0]"),
        ({"image_id": 99}, "must be of an image. Received: image 99"),
        ({"category_id": 7}, "one of the categories [1, 2, 3, 4, 5]. Received: category_id=7"),
    ],
    ids=["outside", "empty", "no-image", "no-category"],
)
def test_an_annotation_that_cannot_be_is_refused(drawn, tmp_path, change, message):
    from ssd import coco

    annotations = json.loads(json.dumps(drawn[1]))
    annotations["annotations"][3].update(change)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match=f"annotation 4 .*{re.escape(message)}"):
        coco.load(path, tmp_path, 64)


def test_boxes_come_back_from_what_their_anchors_say(drawn, centered):
    """Encoded by the example, decoded as the op in the file is documented to do it."""
    from ssd import anchors, coco

    for boxes, classes in coco.boxes(drawn[1]):
        where, what = anchors.targets(boxes, classes, 5, centered)
        taken = where[:, 4] == 1
        assert taken.sum() >= len(boxes)
        assert what[taken, -1].all()  # they count
        assert (what[taken, :-1].sum(axis=1) == 1).all()
        assert not what[~taken, :-1].any()
        (ty, tx, th, tw), (y, x, h, w) = where[taken, :4].T, centered[taken].T
        centers = np.stack([ty / 10 * h + y, tx / 10 * w + x])
        halves = np.stack([np.exp(th / 5) * h, np.exp(tw / 5) * w]) / 2
        decoded = np.concatenate([centers - halves, centers + halves]).T
        nearest = np.abs(decoded[:, None] - boxes[None]).max(axis=2)
        np.testing.assert_allclose(nearest.min(axis=1), 0, atol=1e-5)
        assert set(nearest.argmin(axis=1)) == set(range(len(boxes)))  # none is left out


def test_who_stands_for_a_box_goes_by_overlap():
    """Worked by hand: a box of 0.4 x 0.4 against anchors that reach over it by different parts."""
    from ssd import anchors

    box = np.array([[0.3, 0.3, 0.7, 0.7]], "float32")
    rows = [
        (0.5, 0.5, 0.4, 0.4, 1, True),  # the box itself
        (0.5, 0.6, 0.4, 0.4, 1, True),  # 0.3 * 0.4 / (2 * 0.16 - 0.12) = 0.6
        (0.5, 0.65, 0.4, 0.4, 0, False),  # 0.1 / 0.22 = 0.4545: nothing is known of it
        (0.5, 0.8, 0.4, 0.4, 1, False),  # 0.04 / 0.28 = 0.14: background
    ]
    centered = np.array([row[:4] for row in rows], "float32")
    where, what = anchors.targets(box, np.array([2]), 3, centered)
    assert what[:, -1].tolist() == [row[4] for row in rows]
    assert where[:, 4].tolist() == what[:, 2].tolist() == [row[5] for row in rows]
    np.testing.assert_allclose(where[1, :4], [0, -10 * 0.1 / 0.4, 0, 0], atol=1e-5)


def test_an_anchor_of_the_mirror_image_is_one_of_the_anchors(centered):
    from ssd import anchors

    for axis in (0, 1):
        mirrored = centered.copy()
        mirrored[:, axis] = 1 - mirrored[:, axis]
        found = centered[anchors.mirrored(centered, axis)]
        np.testing.assert_allclose(found, mirrored, atol=1e-6)


def test_the_losses_are_their_formulas():
    from ssd import network

    generator = np.random.default_rng(0)
    truth = generator.normal(size=(2, 7, 5)).astype("float32")
    truth[..., 4] = generator.integers(0, 2, (2, 7))
    boxes = generator.normal(size=(2, 7, 4)).astype("float32")
    error = np.abs(truth[..., :4] - boxes)
    huber = np.where(error < 1, error**2 / 2, error - 0.5).sum(axis=-1)
    expected = (huber * truth[..., 4]).sum() / truth[..., 4].sum()
    assert float(network.box_loss(truth, boxes)) == pytest.approx(expected, rel=1e-5)

    labels = np.zeros((2, 7, 4), "float32")
    labels[0, 1, 2] = labels[1, 4, 0] = 1
    labels[..., 3] = 1
    labels[0, 6, 3] = 0  # this one does not count
    scores = generator.uniform(0, 1, (2, 7, 3)).astype("float32")
    scores[0, 1, 2] = 0  # as an int8 score can be: the loss is finite
    p = 1 / 512 + (1 - 1 / 256) * scores
    focal = -np.where(
        labels[..., :3] == 1,
        0.25 * (1 - p) ** 2 * np.log(p),
        0.75 * p**2 * np.log(1 - p),
    )
    expected = (focal * labels[..., 3:]).sum() / 2
    assert float(network.score_loss(labels, scores)) == pytest.approx(expected, rel=1e-5)


def test_map_is_that_of_the_detections(drawn):
    from ssd import coco

    _, annotations = drawn
    truth = coco.boxes(annotations)
    perfect = [(boxes, classes, np.ones(len(classes))) for boxes, classes in truth]
    assert coco.mean_average_precision(annotations, perfect) == pytest.approx(100)
    wrong = [(boxes, (classes + 1) % 5, scores) for boxes, classes, scores in perfect]
    assert coco.mean_average_precision(annotations, wrong) < 10
    nothing = [(boxes[:0], classes[:0], scores[:0]) for boxes, classes, scores in perfect]
    assert coco.mean_average_precision(annotations, nothing) == 0
    # Narrower by a third: it counts at overlaps of 0.5 to 0.65, four of ten.
    shrunk = []
    for boxes, classes, scores in perfect:
        narrow = boxes.copy()
        narrow[:, 3] = narrow[:, 1] + 0.667 * (narrow[:, 3] - narrow[:, 1])
        shrunk.append((narrow, classes, scores))
    assert coco.mean_average_precision(annotations, shrunk) == pytest.approx(40, abs=1)
