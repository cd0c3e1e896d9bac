"""LeNet, pruned to half its weights and trained for integers, in one `fit`.

    python examples/lenet.py               # Keras 3
    python examples/lenet.py --keras 2     # tf_keras, the Keras that came before
    python examples/lenet.py --seeds 5     # the accuracies as means, with their standard errors

It trains the same network twice. The first fit is an ordinary one: the float network to compare
with. The second has `Compress` in its list of callbacks. The table at the end puts the two side by
side, with the integer file, and with what quantizing the float network after its training gives.

The data are scikit-learn's digits, which need no download; MNIST is taken instead where its file
lies already (`~/.keras/datasets/mnist.npz`). The times of the first two rows are Keras' `predict`,
those of the files LiteRT's, one image after the other on one thread.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.table

import keras_compress as kc

ROUNDS = 10  # of the test set, for the time column


def load_data():
    """(name, x_train, y_train, x_test, y_test, epochs); images of 28 x 28 x 1 in [0, 1]."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    mnist = home / "datasets" / "mnist.npz"
    if mnist.exists():
        with np.load(mnist) as file:
            names = ("x_train", "y_train", "x_test", "y_test")
            x_train, y_train, x_test, y_test = (file[name] for name in names)
        x_train, x_test = ((x / 255).astype("float32")[..., None] for x in (x_train, x_test))
        return "MNIST", x_train, y_train, x_test, y_test, 5

    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 8 x 8 pixels of 0..16, each three times in both directions, in a frame as MNIST has it.
    images = digits.images.repeat(3, axis=1).repeat(3, axis=2) / 16
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype("float32")[..., None]
    split = train_test_split(images, digits.target, test_size=450, random_state=0)
    x_train, x_test, y_train, y_test = split
    return "digits", x_train, y_train, x_test, y_test, 50


def lenet(keras, seed):
    """The network of the tutorials, compiled. Nothing in it knows of compression."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def run(keras, data, seed, epochs, folder):
    """Train both, export three files; {row of the table: its columns} and the ratio of sizes."""
    x_train, y_train, x_test, y_test = data

    def fit(model, **arguments):
        model.fit(x_train, y_train, batch_size=32, epochs=epochs, **arguments)

    plain = lenet(keras, seed)
    fit(plain)

    # Fractions count the steps of the fit, so that the plan is the same for any number of epochs:
    # half of the weights go between 20 and 60 %, and from 80 % on the network computes as integers
    # will. Until then nothing is rounded, so the integers start from a network that is trained.
    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.2, end_step=0.6, frequency=10)
    compress = kc.Compress(
        pruning=kc.Pruning(half),
        quantization=kc.Quantization(delay=0.8),
        export=kc.Export(folder / "lenet.tflite", verify_data=x_test),
    )
    model = lenet(keras, seed)  # the same first weights, and the same order of the data
    fit(model, callbacks=[compress])
    if not compress.report.export.written:  # a failing export never costs the training
        raise SystemExit(str(compress.report.export))

    # The float network as files: as it is, and quantized without training, from its ranges on the
    # training data.
    float_file = kc.Export(folder / "lenet_float.tflite", mode="float32")
    afterwards = kc.Export(folder / "lenet_post_training.tflite", representative_dataset=x_train)

    def measured(predict, written=None):
        predict(x_test)  # once before the clock runs: the first call builds things
        started = time.perf_counter()
        for _ in range(ROUNDS):
            answers = predict(x_test)
        seconds = time.perf_counter() - started
        accuracy = 100 * float(np.mean(answers.argmax(axis=-1) == y_test))
        sizes = (written.bytes, written.zipped_bytes) if written else (np.nan, np.nan)
        return (*sizes, accuracy, seconds)

    def by_keras(model):
        return lambda x: model.predict(x, verbose=0)

    def by_litert(report):
        return kc.load_tflite(report.path).predict

    float_report = kc.export_tflite(plain, float_file)
    after_report = kc.export_tflite(plain, afterwards)
    int8_report = compress.report.export
    return {
        "float": measured(by_keras(plain), float_report),
        "fake-quantized": measured(by_keras(model)),
        "TFLite int8": measured(by_litert(int8_report), int8_report),
        "post-training int8": measured(by_litert(after_report), after_report),
    }


def table(title, runs):
    """One row for each network: means over `runs`, accuracies with their standard error."""
    columns = ("bytes", "zipped", "test accuracy (%)", f"{ROUNDS} rounds of the test set (s)")
    made = rich.table.Table(title=title, title_justify="left", caption_justify="left")
    made.add_column("network")
    for name in columns:
        made.add_column(name, justify="right")
    for row in runs[0]:
        values = np.array([result[row] for result in runs])
        size, zipped, accuracy, seconds = values.mean(axis=0)
        sizes = ("-", "-") if np.isnan(size) else (f"{size:,.0f}", f"{zipped:,.0f}")
        made.add_row(row, *sizes, with_error(values[:, 2], accuracy), f"{seconds:.2f}")
    lost = np.array([result["TFLite int8"][2] - result["float"][2] for result in runs])
    ratio = runs[0]["float"][0] / runs[0]["TFLite int8"][0]
    made.caption = (
        f"int8 against float: {with_error(lost, lost.mean(), '+')} points, "
        f"a file {ratio:.2f} times smaller"
    )
    return made


def with_error(values, mean, sign=""):
    """A mean, with its standard error where there are several values."""
    text = f"{mean:{sign}.2f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted from --seed")
    parser.add_argument("--epochs", type=int, help="50 for the digits, 5 for MNIST")
    parser.add_argument("--folder", type=pathlib.Path, default=".", help="where the files go")
    arguments = parser.parse_args()

    # What Compress does and when is printed; Keras' bar shows `sparsity` and `quantized` as well.
    if arguments.keras == 3:
        import keras
    else:
        import tf_keras as keras

    name, *data, epochs = load_data()
    epochs = arguments.epochs or epochs
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    runs = [run(keras, data, seed, epochs, arguments.folder) for seed in seeds]
    title = (
        f"LeNet on {name}, {keras.__name__} {keras.__version__}, {epochs} epochs, "
        f"{len(runs)} seed(s)"
    )
    rich.console.Console(width=100).print(table(title, runs))


if __name__ == "__main__":
    main()
