"""Files made after training, in every mode: here, by hand with tf.lite, by ai-edge-quantizer.

    python benchmarks/post_training.py             # Keras 3, LeNet and a small ResNet, 3 seeds
    python benchmarks/post_training.py --keras 2   # tf_keras
    python benchmarks/post_training.py --quick     # does it run? 1 seed, 1 epoch

Each net is trained in float on scikit-learn's digits; then all make their files of the same
weights, with the same 200 images to calibrate on. LiteRT runs them on 450 test images, where one
image is 0.22 points. A latency is the median of 200 runs of one image on one thread. Sizes within
half a per cent count as equal.

ai-edge-quantizer (`pip install '.[benchmarks]'`) starts from the float file; without it its rows
are left out.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
import tensorflow as tf
from measuring import keras_of, mean, standard_error
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc
from keras_compress.tflite import latency_ms, zipped_size

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
OURS, BY_HAND, QUANTIZER = "keras_compress", "tf.lite by hand", "ai-edge-quantizer"
CALIBRATION = 200  # images
EQUAL = 1.005  # ratio of sizes


# --- data and models


def load_data():
    """(x_train, x_test, y_train, y_test); images of 16 x 16 x 1 in [0, 1]."""
    digits = load_digits()
    images = digits.images.repeat(2, axis=1).repeat(2, axis=2) / 16
    images = images.astype("float32")[..., None]
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def lenet(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((16, 16, 1), name="image"),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def resnet(keras):
    """Three residual blocks with batch norm, 16 to 64 channels."""
    layers = keras.layers

    def convolution(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    image = layers.Input((16, 16, 1), name="image")
    x = layers.ReLU()(convolution(image, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(convolution(x, filters, 3, strides))
        y = convolution(y, filters, 3)
        if strides > 1:
            x = convolution(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x))


NETS = {"LeNet": lenet, "ResNet": resnet}


# --- the competitors: a trained model, a mode and images -> the bytes of a file


def ours(model, mode, images, folder):
    path = os.path.join(folder, "ours.tflite")
    data = images if mode.startswith("int") else None
    kc.export_tflite(model, kc.Export(path, mode=mode, representative_dataset=data))
    with open(path, "rb") as file:
        return file.read()


def by_hand(model, mode, images, folder):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode.startswith("int"):
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        kind = tf.int8 if mode == "int8" else tf.int16
        converter.inference_input_type = converter.inference_output_type = kind
    if mode == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if mode == "int16x8":
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    return converter.convert()


def with_quantizer(model, mode, images, folder):
    from ai_edge_quantizer import quantizer, recipe

    recipes = {
        "dynamic": recipe.dynamic_wi8_afp32,
        "int8": recipe.static_wi8_ai8,
        "int16x8": recipe.static_wi8_ai16,
    }
    if mode not in recipes:
        return None
    path = os.path.join(folder, "float.tflite")
    kc.export_tflite(model, kc.Export(path, mode="float32"))
    maker = quantizer.Quantizer(path, recipes[mode]())
    ranges = None
    if maker.need_calibration:
        samples = [{"image": image[None]} for image in images]
        ranges = maker.calibrate({"serving_default": samples})
    return bytes(maker.quantize(ranges).quantized_model)


COMPETITORS = {OURS: ours, BY_HAND: by_hand}
if importlib.util.find_spec("ai_edge_quantizer"):
    COMPETITORS[QUANTIZER] = with_quantizer


# --- measuring


def measure(model, data, folder):
    """{(mode, competitor): (accuracy in per cent, bytes, zipped bytes, latency in ms)}"""
    x, x_test, _, y_test = data
    files = {}
    for mode in MODES:
        for name, make in COMPETITORS.items():
            with contextlib.redirect_stdout(io.StringIO()):  # what they print of their own
                made = make(model, mode, x[:CALIBRATION], folder)
            if made is not None:
                files[mode, name] = made
    found = {}
    for key, made in files.items():
        file = kc.load_tflite(made)
        accuracy = 100 * file.evaluate(x_test, y_test)["accuracy"]
        found[key] = accuracy, len(made), zipped_size(made), latency_ms(file, 200)
    return found


def table(title, results):
    """One row for each mode and competitor; `results`: one dict for each seed, as `measure` gives
    it. Differences are ours less theirs.
    """
    made = rich.table.Table(title=title, title_justify="left")
    for column in ("mode", "made with"):
        made.add_column(column)
    columns = ("accuracy (%)", "ours - theirs", "bytes", "zipped", "ours / theirs", "ms", "met?")
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    for mode, name in results[0]:
        accuracy, size, zipped, latency = np.transpose([each[mode, name] for each in results])
        cells = [mean(accuracy), "-", f"{np.mean(size):,.0f}", f"{np.mean(zipped):,.0f}", "-"]
        met = "-"
        if name != OURS:
            own, own_size, _, _ = np.transpose([each[mode, OURS] for each in results])
            difference, ratio = own - accuracy, np.mean(own_size / size)
            cells[1], cells[4] = mean(difference, "+.2f"), f"{ratio:.3f}"
            good = difference.mean() >= -2 * standard_error(difference) and ratio <= EQUAL
            met = "yes" if good else "NO"
        made.add_row(mode, name, *cells, f"{np.median(latency):.3f}", met)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", choices=NETS)
    parser.add_argument("--quick", action="store_true", help="LeNet, 1 seed, 1 epoch")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.only = 1, 1, "LeNet"
    keras, data = keras_of(arguments.keras), load_data()
    x, _, y, _ = data
    names = [arguments.only] if arguments.only else list(NETS)
    console = rich.console.Console(width=120)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("nets", total=len(names) * arguments.seeds)
        tables = []
        for name in names:
            results = []
            for seed in range(arguments.seeds):
                keras.utils.set_random_seed(seed + 1)
                model = NETS[name](keras)
                model.compile("adam", "sparse_categorical_crossentropy")
                model.fit(x, y, batch_size=32, epochs=arguments.epochs, verbose=0)
                with tempfile.TemporaryDirectory() as folder:
                    results.append(measure(model, data, folder))
                progress.advance(task)
            which = f"{keras.__name__} {keras.__version__}"
            title = f"{name} on digits, {which}, {len(results)} seed(s)"
            tables.append(table(title, results))
    for each in tables:
        console.print(each)


if __name__ == "__main__":
    main()
