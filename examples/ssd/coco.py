"""Data in COCO's form: read from a folder, checked, written, and mAP by pycocotools."""

import contextlib
import io
import json
import pathlib

import numpy as np
import tensorflow as tf


def load(path, folder, pixels, limit=None):
    """(images, annotations) of a JSON in COCO's form and the folder of its images.

    Images come as uint8 of (count, pixels, pixels, 3), stretched to that square as the network
    takes them; annotations as they are, of these images alone.

    Args:
        limit: at most so many images, the first ones.

    Raises:
        ValueError: an annotation outside of its image, or of an image or a category that there is
            not.
    """
    annotations = json.loads(pathlib.Path(path).read_text())
    entries = annotations["images"][:limit]
    kept = {entry["id"] for entry in entries}
    known = {entry["id"] for entry in annotations["images"]}
    annotations = {
        "images": entries,
        "categories": annotations["categories"],
        # What names no image at all is kept, so that `check` finds it.
        "annotations": [
            each
            for each in annotations["annotations"]
            if each["image_id"] in kept or each["image_id"] not in known
        ],
    }
    check(annotations, str(path))
    images = np.empty((len(entries), pixels, pixels, 3), np.uint8)
    for number, entry in enumerate(entries):
        data = tf.io.read_file(str(pathlib.Path(folder) / entry["file_name"]))
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        if image.shape[:2] != (entry["height"], entry["width"]):
            raise ValueError(
                f"{path}: an image must have the size that is written there. Received: "
                f"{entry['file_name']} of {image.shape[1]} x {image.shape[0]} pixels for "
                f"{entry['width']} x {entry['height']}"
            )
        if image.shape[:2] != (pixels, pixels):
            image = tf.image.resize(image, (pixels, pixels), antialias=True)
        images[number] = np.clip(np.round(image), 0, 255)
    return images, annotations


def check(annotations, source):
    """Raise ValueError for an annotation that cannot be."""
    sizes = {each["id"]: (each["width"], each["height"]) for each in annotations["images"]}
    kinds = {each["id"] for each in annotations["categories"]}
    for each in annotations["annotations"]:
        where = f"{source}: annotation {each['id']}"
        if each["image_id"] not in sizes:
            raise ValueError(f"{where} must be of an image. Received: image {each['image_id']!r}")
        if each["category_id"] not in kinds:
            raise ValueError(
                f"{where} must be of one of the categories {sorted(kinds)}. Received: "
                f"category_id={each['category_id']!r}"
            )
        width, height = sizes[each["image_id"]]
        x, y, w, h = each["bbox"]
        # COCO's own boxes are rounded to hundredths of a pixel.
        inside = x >= -1 and y >= -1 and x + w <= width + 1 and y + h <= height + 1
        if not (inside and w > 0 and h > 0):
            raise ValueError(
                f"{where} must have its box (x, y, width, height) inside its image of "
                f"{width} x {height} pixels. Received: bbox={each['bbox']}"
            )


def save(path, folder, images, annotations):
    """Write a set as `load` reads it: one JSON, and a PNG for each image."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for image, entry in zip(images, annotations["images"], strict=True):
        tf.io.write_file(str(pathlib.Path(folder) / entry["file_name"]), tf.io.encode_png(image))
    pathlib.Path(path).write_text(json.dumps(annotations))


def names(annotations):
    """The names of the classes, in the order of their ids, which is that of the scores."""
    ordered = sorted(annotations["categories"], key=lambda each: each["id"])
    return [each["name"] for each in ordered]


def boxes(annotations):
    """For each image (boxes, classes): (ymin, xmin, ymax, xmax) in fractions of the image, [n, 4],
    and numbers counted from 0. Crowds, which no box can be learnt from, are left out.
    """
    kinds = sorted(each["id"] for each in annotations["categories"])
    found = {each["id"]: ([], []) for each in annotations["images"]}
    sizes = {each["id"]: (each["width"], each["height"]) for each in annotations["images"]}
    for each in annotations["annotations"]:
        if each.get("iscrowd"):
            continue
        (x, y, w, h), (width, height) = each["bbox"], sizes[each["image_id"]]
        where, what = found[each["image_id"]]
        where.append((y / height, x / width, (y + h) / height, (x + w) / width))
        what.append(kinds.index(each["category_id"]))
    return [
        (np.array(where, "float32").reshape(-1, 4), np.array(what, int))
        for where, what in found.values()
    ]


def mean_average_precision(annotations, detections):
    """COCO's mAP over overlaps of 0.5 to 0.95, in [0, 100], by pycocotools.

    Args:
        detections: for each image (boxes, classes, scores), in the form of `boxes`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = sorted(each["id"] for each in annotations["categories"])
    results = []
    for image, (where, what, scores) in zip(annotations["images"], detections, strict=True):
        scale = np.array([image["height"], image["width"]] * 2)
        for (top, left, bottom, right), kind, score in zip(
            where * scale, what, scores, strict=True
        ):
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": kinds[int(kind)],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(score),
                }
            )
    if not results:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])
