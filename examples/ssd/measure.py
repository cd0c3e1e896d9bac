"""What a file is worth: its detections, mAP, and how long it takes."""

import time

import numpy as np

import keras_compress as kc
from ssd import coco, network

OP = "TFLite_Detection_PostProcess"


def detections(path, images):
    """For each image (boxes, classes, scores), by LiteRT, the op's own rows and no others."""
    answers = kc.load_tflite(path).predict(network.as_input(images).numpy())
    counts = answers[f"{OP}:3"].astype(int)
    parts = (answers[OP], answers[f"{OP}:1"], answers[f"{OP}:2"])
    return [tuple(part[row, :count] for part in parts) for row, count in enumerate(counts)]


def milliseconds(path, images):
    """The median of one image after the other on one thread, each as the file takes it: bytes as
    they are, where it takes bytes. What the op takes depends on what there is to choose from.
    """
    file = kc.load_tflite(path)
    raw = images if file.inputs[0].dtype == "uint8" else network.as_input(images).numpy()
    times = []
    for row in range(len(raw)):
        begin = time.perf_counter()
        file.predict(raw[row : row + 1], raw=True)
        times.append(1000 * (time.perf_counter() - begin))
    return float(np.median(times))


def row(report, images, annotations):
    """(mAP, bytes, zipped bytes, milliseconds) of the file that a report is of."""
    found = detections(report.path, images)
    return (
        coco.mean_average_precision(annotations, found),
        report.bytes,
        report.zipped_bytes,
        milliseconds(report.path, images[:200]),
    )
