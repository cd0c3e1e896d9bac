"""A model that compresses itself: wrap it before `compile`, and every `fit` is a bare one.

    python examples/wrap.py               # Keras 3: the same model, compressed in place
    python examples/wrap.py --keras 2     # tf_keras: a new one, in the wrappers of tfmot

`wrap` takes the specs that the callback takes. It is the way in where the list of callbacks is out
of reach, as in a training script that others wrote, and, for tf_keras, into tfmot's own wrappers.

The data are scikit-learn's digits, which need no download.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc


def load_data():
    """(x_train, x_test, y_train, y_test); images of 8 x 8 x 1 in [0, 1]."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[..., None]
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def network(keras):
    """A small convolutional net with batch norm, not compiled."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=pathlib.Path, default=".", help="where the files go")
    arguments = parser.parse_args()

    # What happens when is printed; Keras' bar shows `sparsity` and `quantized` as well.
    if arguments.keras == 3:
        import keras
    else:
        import tf_keras as keras
    keras.utils.set_random_seed(0)
    x_train, x_test, y_train, y_test = load_data()

    # Fractions of the first fit: two thirds of the weights go between 20 and 60 % of it, and from
    # 80 % on the network computes as integers will.
    decay = kc.PolynomialDecay(final_sparsity=0.67, begin_step=0.2, end_step=0.6, frequency=10)
    model = kc.wrap(
        network(keras),
        pruning=kc.Pruning(decay),
        quantization=kc.Quantization(delay=0.8),
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=arguments.epochs, verbose=2)

    print(kc.compression_of(model).report)  # that of the `Compress` in charge
    path = arguments.folder / "wrapped.tflite"  # written whenever it is wanted
    written = kc.export_tflite(model, kc.Export(path, verify_data=x_test))
    plain = kc.strip(model)  # float and masked, without a wrapper
    plain.save(arguments.folder / "stripped.keras")

    title = f"Wrapped, {keras.__name__} {keras.__version__}, {arguments.epochs} epochs"
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("network")
    for name in ("test accuracy (%)", "bytes", "zipped"):
        table.add_column(name, justify="right")

    def add(name, answers, *sizes):
        accuracy = 100 * np.mean(answers.argmax(axis=-1) == y_test)
        table.add_row(name, f"{accuracy:.2f}", *(f"{size:,}" if size else "-" for size in sizes))

    add(
        "stripped, float",
        plain.predict(x_test, verbose=0),
        written.float_bytes,
        written.float_zipped_bytes,
    )
    add("fake-quantized", model.predict(x_test, verbose=0), None, None)
    answers = kc.load_tflite(path).predict(x_test)
    add("TFLite int8", answers, written.bytes, written.zipped_bytes)
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
