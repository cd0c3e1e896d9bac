"""MobileNetV2 fine-tuned on textures: head alone, then all of it, pruned and for integers.

    python examples/finetune.py                       # Keras 3, a backbone that has learnt nothing
    python examples/finetune.py --keras 2             # tf_keras
    python examples/finetune.py --weights imagenet    # the real thing, where it can be downloaded
    python examples/finetune.py --quick               # does it run? a few images, three epochs

It trains all of a MobileNetV2: on two cores of a laptop that takes 10 to 15 minutes, `--quick` less
than two.

The usual two steps: a fit with the backbone frozen, which trains the head; then unfreeze, compile
again with a small learning rate, and fit once more. Only this second fit has `Compress` in its list
of callbacks, and at its end stands the integer file.

The data are drawn with NumPy: textures of six kinds, light on dark, in any colours, at any angle
and scale, with noise. Without `--weights` the backbone has random weights, so that nothing has to
be downloaded: its features say little, the first fit learns little, and the second everything.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.table

import keras_compress as kc

PIXELS = 96
BATCH = 16


# --- the data: each pattern is a function of coordinates in periods, and gives 0..1


def wave(t):
    """A sine of period 1 between 0 and 1."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * t)


PATTERNS = {
    "stripes": lambda x, y: wave(x),
    "grid": lambda x, y: np.maximum(x % 1 < 0.25, y % 1 < 0.25).astype(float),
    "checks": lambda x, y: (np.floor(x) + np.floor(y)) % 2,
    "dots": lambda x, y: (np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3).astype(float),
    "rings": lambda x, y: wave(np.hypot(x, y)),
    "waves": lambda x, y: wave(x + 0.35 * np.sin(np.pi * y)),
}


def texture(generator, pattern):
    """One image (PIXELS, PIXELS, 3) of a pattern, in 0..255."""
    angle, shift = generator.uniform(0, 2 * np.pi), generator.uniform(-2, 2, 2)
    periods = generator.uniform(4, 9)  # across the image
    axis = np.linspace(-periods / 2, periods / 2, PIXELS)
    x, y = np.meshgrid(axis, axis)
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    mix = PATTERNS[pattern](x + shift[0], y + shift[1])[..., None]
    dark, light = generator.uniform(0, 100, 3), generator.uniform(155, 255, 3)
    image = dark + mix * (light - dark)
    return image + generator.normal(0, generator.uniform(5, 25), image.shape)


def draw(count, seed):
    """(images as MobileNetV2 wants them, labels): every kind equally often, one set for one seed.

    Images are float32 of (count, PIXELS, PIXELS, 3) in [-1, 1].
    """
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % len(PATTERNS))
    names = list(PATTERNS)
    images = np.stack([texture(generator, names[label]) for label in labels])
    return (np.clip(images, 0, 255) / 127.5 - 1).astype("float32"), labels


# --- the model


def build(keras, weights):
    """(model, its backbone): MobileNetV2 and a head, not compiled."""
    backbone = keras.applications.MobileNetV2(
        (PIXELS, PIXELS, 3), alpha=0.35, include_top=False, weights=weights
    )
    # Its batch norms follow their statistics by a thousandth at each update. A fit as short as this
    # would end with those of other images, or of random weights.
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((PIXELS, PIXELS, 3), name="image"),
            backbone,
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(len(PATTERNS), activation="softmax", name="texture"),
        ]
    )
    return model, backbone


def compile_with(keras, model, rate, eager):
    # Without XLA, which Keras 3 would use: on a CPU it compiles this net for a minute, again for
    # each of the three phases, and its steps are no faster.
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
        run_eagerly=eager,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--weights", help='"imagenet" or a file; none by default')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1600, help="to train on")
    parser.add_argument("--epochs", type=int, nargs=2, default=(2, 10), help="of the two fits")
    parser.add_argument("--rate", type=float, help="of the second fit; 1e-4 if there are weights")
    parser.add_argument("--folder", type=pathlib.Path, default=".", help="where the file goes")
    parser.add_argument("--quick", action="store_true", help="96 images, epochs 1 and 2, eager")
    arguments = parser.parse_args()
    count, epochs = (96, (1, 2)) if arguments.quick else (arguments.images, arguments.epochs)
    # Small steps for what is trained already; random weights have nothing to lose.
    rate = arguments.rate or (2e-3 if arguments.weights is None else 1e-4)

    # What Compress does and when is printed; Keras' bar shows `sparsity` and `quantized` as well.
    if arguments.keras == 3:
        import keras
    else:
        import tf_keras as keras
    keras.utils.set_random_seed(arguments.seed)
    x_train, y_train = draw(count, seed=2 * arguments.seed)
    x_test, y_test = draw(count // 4, seed=2 * arguments.seed + 1)
    training = {"x": x_train, "y": y_train, "batch_size": BATCH, "verbose": 2}
    training["validation_data"] = (x_test, y_test)

    model, backbone = build(keras, arguments.weights)
    backbone.trainable = False
    compile_with(keras, model, 1e-3, arguments.quick)
    model.fit(**training, epochs=epochs[0])
    head_alone = model.evaluate(x_test, y_test, verbose=0, return_dict=True)

    # Steps count from here, the first fit that compression sees. Had the first one had a `Compress`
    # as well, the masks of what was frozen would begin here all the same.
    backbone.trainable = True
    compile_with(keras, model, rate, arguments.quick)
    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.3, end_step=0.7, frequency=10)
    path = arguments.folder / "textures.tflite"
    compress = kc.Compress(
        pruning=kc.Pruning(half),
        quantization=kc.Quantization(delay=0.8),
        export=kc.Export(path, inference_input_type="uint8", verify_data=x_test),
    )
    model.fit(**training, epochs=epochs[1], callbacks=[compress])
    print(compress.report)
    written = compress.report.export
    if not written.written:  # a failing export never costs the training
        raise SystemExit(1)

    title = f"Textures, {keras.__name__} {keras.__version__}, epochs {epochs[0]} + {epochs[1]}"
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("network")
    for name in ("test accuracy (%)", "bytes", "zipped"):
        table.add_column(name, justify="right")

    def add(name, metrics, *sizes):
        sizes = (f"{size:,}" if size else "-" for size in sizes)
        table.add_row(name, f"{100 * metrics['accuracy']:.2f}", *sizes)

    add("float, after the first fit", head_alone, None, None)
    metrics = compress.report.validation.metrics  # of what the second fit made
    add(
        "float, half of it zeros", metrics["float"], written.float_bytes, written.float_zipped_bytes
    )
    add("fake-quantized", metrics["fake-quantized"], None, None)
    add("TFLite int8", metrics["tflite"], written.bytes, written.zipped_bytes)
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
