"""How small can it get, at a point of accuracy? A search with KerasTuner, judged by the files.

    python examples/sparsity_search.py               # Keras 3
    python examples/sparsity_search.py --keras 2     # tf_keras, the Keras that came before
    python examples/sparsity_search.py --trials 40   # goes on with the search, where one stands

The float network is trained once. A scan then prunes each of its layers alone, without training,
and says how far each one may be searched; that takes seconds. The search trains a compressed copy
for every trial, with a target for each layer and 8 or 4 bits for the weights, and looks for the
smallest zipped file that is at most `--max-drop` worse than the float network.

The data are scikit-learn's digits: a part to train with, one that the trials are judged by, and one
that nothing has seen before the last table. The winner is the best of many on the second part, so
it looks better there than it is.

Needs `pip install '.[examples,tuner,plot]'`.
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

LOWEST = 0.3  # sparsity that a layer has in any trial
SCANNED = (0.5, 0.7, 0.8, 0.9, 0.95)  # sparsities of the scan
SCANNED_DROP = 0.4  # what a layer alone may cost in the scan; training wins most of it back


def load_data():
    """((x, y) to train with, to judge by, to test at the end); images of 8 x 8 x 1 in [0, 1]."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[..., None]
    x, x_rest, y, y_rest = train_test_split(images, digits.target, test_size=800, random_state=0)
    x_judge, x_test, y_judge, y_test = train_test_split(
        x_rest, y_rest, test_size=400, random_state=0
    )
    return (x, y), (x_judge, y_judge), (x_test, y_test)


def network(keras):
    """9,800 weights, most of them in `hidden`. Nothing in it knows of compression."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="edges"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="parts"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    # Without XLA: it would compile anew for every trial, for longer than a trial trains.
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    return model


def last_table(model, winner, test, folder):
    """The float network and the winner's file, on rows that neither has seen."""
    x, y = test
    float_file = kc.export_tflite(model, kc.Export(folder / "float.tflite", mode="float32"))
    made = rich.table.Table(title="On the test data", title_justify="left")
    made.add_column("network")
    for name in ("bytes", "zipped", "test accuracy (%)"):
        made.add_column(name, justify="right")
    contents = kc.inspect_tflite(winner)
    rows = {
        "float": (float_file.path, float_file.bytes, float_file.zipped_bytes),
        "the winner, int8": (winner, winner.stat().st_size, contents.zipped_bytes),
    }
    for name, (path, size, zipped) in rows.items():
        answers = kc.load_tflite(path).predict(x)
        accuracy = 100 * float(np.mean(answers.argmax(axis=-1) == y))
        made.add_row(name, f"{size:,}", f"{zipped:,}", f"{accuracy:.2f}")
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument(
        "--max-drop", type=float, help="accuracy that may go; 0.01, a point, if not given"
    )
    parser.add_argument("--folder", type=pathlib.Path, default=".", help="where the files go")
    parser.add_argument("--quick", action="store_true", help="does it run? 2 trials, few epochs")
    arguments = parser.parse_args()
    from keras_compress.tuner import SparsitySearch, sensitivity  # needs the extra `tuner`

    if arguments.keras == 3:
        import keras
    else:
        import tf_keras as keras

    trials, folder, max_drop = arguments.trials, arguments.folder, arguments.max_drop
    epochs, float_epochs, usual_drop = 12, 60, 0.01
    if arguments.quick:
        trials, epochs, float_epochs, usual_drop = 2, 3, 3, 0.5
    (x, y), judge, test = load_data()
    model = network(keras)
    model.fit(x, y, epochs=float_epochs, validation_data=judge, verbose=2)

    scan = sensitivity(model, *judge, sparsities=SCANNED)
    print(scan)
    scan.plot(folder / "sensitivity.png")
    bounds = scan.bounds(SCANNED_DROP, low=LOWEST)

    search = SparsitySearch(
        model,
        max_accuracy_drop=usual_drop if max_drop is None else max_drop,
        final_sparsity=bounds,
        weight_bits=[8, 4],
        max_trials=trials,
        directory=str(folder),
        project_name=f"sparsity_search_keras{arguments.keras}",
        seed=1,  # KerasTuner takes 0 for none
    )
    search.search(x, y, epochs=epochs, validation_data=judge)

    print(search.trials_table(folder / "sparsity_search.csv"))
    search.plot(folder / "sparsity_search.png")
    print("Pareto front, smallest first:")
    for trial in search.pareto():
        accuracy, zipped = trial.metrics["tflite_accuracy"], trial.metrics["tflite_zipped_bytes"]
        print(f"  trial {trial.id}: {100 * accuracy:.2f} %, {zipped:,.0f} bytes zipped")
    try:
        best = search.best_trial()
    except RuntimeError as error:  # no trial keeps to the limit
        raise SystemExit(str(error)) from error
    print(f"the winner is trial {best.id}: {best.export}")
    print(", ".join(f"{name} {value:.3g}" for name, value in best.values.items()))
    rich.console.Console(width=100).print(last_table(model, best.export, test, folder))


if __name__ == "__main__":
    main()
