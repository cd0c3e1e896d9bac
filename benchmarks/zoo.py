"""Every family of `keras.applications`, and small nets of other kinds, with the bare callback.

    python benchmarks/zoo.py                      # Keras 3, all of it: some 20 minutes on two cores
    python benchmarks/zoo.py --keras 2            # tf_keras
    python benchmarks/zoo.py --only MobileNetV3Small --only ViT
    python benchmarks/zoo.py --quick              # does it run? the small nets alone

Each net is a process of its own: built without pretrained weights at its smallest, trained for a
few steps with pruning and quantization, exported, run by LiteRT. The table tells whether the file
is all-integer, what in it is float and whose, how far any layer is from the network's on equal
inputs (in steps of its scale), how long it took to attach, how much memory attaching took, and the
bytes.

`--image` is the side of the images; 32 is the least that all families take but those that need 75.
Accuracy is no part of it: nothing is learned in a few steps of random data.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import keras_of

import keras_compress as kc

BATCH, STEPS, CLASSES = 4, 6, 10
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3)
ATTACH_SECONDS, ATTACH_BYTES = 5.0, 1.5e9  # at most

APPLICATIONS = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {},
    "ResNet50": {},
    "ResNet50V2": {},
    "DenseNet121": {},
    "NASNetMobile": {},
    "Xception": {"image": 75},
    "InceptionV3": {"image": 75},
    "InceptionResNetV2": {"image": 75},
    "VGG16": {},
    "ConvNeXtTiny": {},
}


# --- small nets of other kinds


def transformer_block(keras, x, heads=2, width=4):
    layers = keras.layers
    attended = layers.MultiHeadAttention(heads, width)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    wide = layers.Dense(2 * x.shape[-1], activation="gelu")(x)
    return layers.LayerNormalization()(layers.Add()([x, layers.Dense(x.shape[-1])(wide)]))


def vision_transformer(keras):
    layers = keras.layers
    inputs = layers.Input((32, 32, 3))
    patches = layers.Conv2D(16, 8, strides=8)(inputs)
    x = layers.Reshape((16, 16))(patches)
    for _ in range(2):
        x = transformer_block(keras, x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def unet(keras):
    layers = keras.layers

    def block(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = layers.Input((32, 32, 3))
    first = block(inputs, 8)
    second = block(layers.MaxPooling2D()(first), 16)
    x = block(layers.MaxPooling2D()(second), 32)
    x = layers.Conv2DTranspose(16, 2, strides=2)(x)
    x = block(layers.Concatenate()([x, second]), 16)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = block(layers.Concatenate()([x, first]), 8)
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))


def keyword_spotting(keras):
    """DS-CNN of Zhang et al., "Hello Edge", 2017, arXiv:1711.07128, at a quarter of its width."""
    layers = keras.layers
    inputs = layers.Input((49, 10, 1))
    x = layers.Conv2D(16, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(2):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(16, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def waveform(keras):
    layers = keras.layers
    inputs = layers.Input((256, 1))
    x = inputs
    for filters in (8, 16, 32):
        x = layers.Conv1D(filters, 9, strides=2, padding="causal", use_bias=False)(x)
        x = layers.MaxPooling1D()(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.SeparableConv1D(32, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def autoencoder(keras):
    layers = keras.layers
    inputs = layers.Input((32, 32, 1))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="elu")(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="elu")(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="elu")(x)
    x = layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, x)


def siamese(keras):
    layers = keras.layers
    tower = keras.Sequential(
        [
            layers.Input((32, 32, 1)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(16),
        ]
    )
    left, right = (layers.Input((32, 32, 1), name=name) for name in ("left", "right"))
    apart = tower(left) - tower(right)
    return keras.Model([left, right], layers.Dense(2, activation="softmax")(apart * apart))


def text_classifier(keras):
    layers = keras.layers
    inputs = layers.Input((32,), dtype="int32")
    x = layers.Embedding(100, 16)(inputs)
    x = layers.Conv1D(16, 3, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def transformer(keras):
    layers = keras.layers
    inputs = layers.Input((16, 8))
    x = transformer_block(keras, layers.Dense(16)(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


SMALL = {
    "ViT": vision_transformer,
    "U-Net": unet,
    "DS-CNN": keyword_spotting,
    "Conv1D net": waveform,
    "autoencoder": autoencoder,
    "siamese": siamese,
    "text classifier": text_classifier,
    "transformer block": transformer,
}


# --- what a child does


def network(keras, name, image):
    if name in SMALL:
        return SMALL[name](keras)
    arguments = dict(APPLICATIONS[name])
    side = max(image, arguments.pop("image", image))
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(side, side, 3), classes=CLASSES, **arguments)


def rows_of(model):
    """A batch of numbers for every input, and answers of the outputs' shape."""
    draw = np.random.default_rng(0)

    def numbers(tensor):
        shape = (BATCH, *tensor.shape[1:])
        if "int" in str(tensor.dtype):
            return draw.integers(0, 100, shape).astype("int32")
        return draw.uniform(0.0, 255.0, shape).astype("float32")

    x = [numbers(tensor) for tensor in model.inputs]
    y = [np.zeros((BATCH, *tensor.shape[1:]), "float32") for tensor in model.outputs]
    return x if len(x) > 1 else x[0], y if len(y) > 1 else y[0]


def attached(model):
    """Seconds and bytes that it takes to plan and to patch the network."""
    from keras_compress.engines.in_place.engine import InPlace
    from keras_compress.frameworks.choose import adapter_of

    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    engine = InPlace(
        adapter_of(model, "zoo"), model, kc.Pruning(SCHEDULE), kc.Quantization(delay=0.5)
    )
    engine.attach()
    seconds = time.perf_counter() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    engine.detach()
    return seconds, 1024 * grown


def child(name, arguments):
    import tensorflow as tf

    keras = keras_of(arguments.keras)
    keras.utils.set_random_seed(0)
    model = network(keras, name, arguments.image)
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    seconds, grown = attached(model)
    x, y = rows_of(model)
    data = tf.data.Dataset.from_tensors((tuple(x) if isinstance(x, list) else x, y)).repeat()
    with tempfile.TemporaryDirectory() as folder:
        compress = kc.Compress(
            pruning=kc.Pruning(SCHEDULE),
            quantization=kc.Quantization(delay=3),
            export=kc.Export(os.path.join(folder, "net.tflite"), allow_float_ops=True),
            verbose=0,
        )
        begin = time.perf_counter()
        model.fit(data, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[compress])
        whole = time.perf_counter() - begin
    export, report = compress.report.export, compress.report
    worst = max(export.layers, key=lambda each: each.largest_steps, default=None)
    return {
        "error": export.error,
        "left_out": report.left_out.get("quantization", {}),
        "float_ops": sorted({str(op) for op in export.float_ops}),
        "worst": None if worst is None else [worst.largest_steps, worst.path, worst.tensor],
        "output_steps": max(export.largest_steps.values(), default=None),
        "seconds": seconds,
        "grown": grown,
        "fit_seconds": whole,
        "bytes": export.bytes,
        "float_bytes": export.float_bytes,
    }


# --- the parent


def measure(name, arguments):
    command = [sys.executable, __file__, "--child", name]
    for option in ("keras", "image"):
        command += [f"--{option}", str(getattr(arguments, option))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": last}
    return json.loads(done.stdout.splitlines()[-1])


def cells(found):
    if found["error"]:
        return ["NO", found["error"][:60], "-", "-", "-", "-", "-"]
    floats = found["float_ops"]
    worst = found["worst"]
    return [
        "yes" if not floats else "NO",
        "-" if not floats else f"{len(floats)}: {floats[0]}",
        "-" if worst is None else f"{worst[0]:.0f} {worst[1]}",
        f"{found['output_steps']:.1f}",
        f"{found['seconds']:.2f}",
        f"{found['grown'] / 1e6:.0f}",
        f"{found['bytes']:,}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3)
    parser.add_argument("--image", type=int, default=64, help="side of the images")
    parser.add_argument("--only", action="append", choices=[*APPLICATIONS, *SMALL])
    parser.add_argument("--quick", action="store_true", help="the small nets alone")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments)))
        return 0
    names = arguments.only or [*({} if arguments.quick else APPLICATIONS), *SMALL]
    found = {}
    console = rich.console.Console(width=150)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("nets", total=len(names))
        for name in names:
            progress.update(task, description=name)
            found[name] = measure(name, arguments)
            progress.advance(task)

    keras = keras_of(arguments.keras)
    title = (
        f"Pruned and quantized in one fit, {keras.__name__} {keras.__version__}, "
        f"{STEPS} steps of {BATCH} images of {arguments.image} px"
    )
    table = rich.table.Table(title=title, title_justify="left")
    heads = ("net", "all-integer", "float ops", "worst layer (steps)", "output (steps)")
    for column in (*heads, "attach (s)", "attach (MB)", "bytes"):
        table.add_column(column, overflow="fold")
    for name, each in found.items():
        table.add_row(name, *cells(each))
    console.print(table)
    taken = [name for name, each in found.items() if not each["error"]]
    integer = [name for name in taken if not found[name]["float_ops"]]
    slow = [
        name
        for name in taken
        if found[name]["seconds"] > ATTACH_SECONDS or found[name]["grown"] > ATTACH_BYTES
    ]
    console.print(f"{len(taken)} of {len(names)} train and export, {len(integer)} all-integer")
    console.print(
        f"attached in at most {ATTACH_SECONDS:g} s and {ATTACH_BYTES / 1e9:g} GB: "
        + ("all" if not slow else f"not {', '.join(slow)}")
    )
    return 0 if len(integer) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
