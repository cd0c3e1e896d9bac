"""Loads states in a process of its own: `python -m helpers.load_child keras3|tf_keras FOLDER`.

In FOLDER there is one folder per case, with the weights and the state of a trained model. Beside
them the child leaves what the model answers there, and the state as it would save it.
"""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
from helpers.nets import compile_net

WEIGHTS, STATE, AGAIN, ANSWERS = "model.weights.h5", "state.npz", "again.npz", "answers.npz"


def data():
    """Four batches of 16 inputs in [-1, 1) of shape (8, 8, 1), and their classes."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (64, 8, 8, 1)).astype("float32")
    return x, (x[:, 0, :4, 0].argmax(axis=-1)).astype("int32")


def build(keras, *, units=16, classes=4):
    """A net whose layers have automatic names only, with an operator in it; not compiled."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    image = layers.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units, activation="relu")(x)
    x = x + layers.Dense(units, activation="relu")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x))


def answers(model):
    """What a compiled model says of the data, to the last bit."""
    x, y = data()
    return {
        "evaluated": np.array(model.evaluate(x, y, verbose=0)),
        "predicted": model.predict(x, verbose=0),
    }


def main(keras, folder):
    import keras_compress as kc

    for case in sorted(folder.iterdir()):
        model = build(keras)
        model.load_weights(case / WEIGHTS)
        compile_net(keras, model)
        kc.load_state(model, case / STATE)
        kc.save_state(model, case / AGAIN)
        np.savez(case / ANSWERS, **answers(model), layers=[layer.name for layer in model.layers])


def take_names(keras):
    """Use up more automatic names than any test does, so that the next ones are new."""
    for name in ("Conv2D", "BatchNormalization", "ReLU", "Flatten", "Dense"):
        for _ in range(1000):
            arguments = {"Conv2D": {"filters": 1, "kernel_size": 1}, "Dense": {"units": 1}}
            getattr(keras.layers, name)(**arguments.get(name, {}))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    keras = importlib.import_module({"keras3": "keras"}.get(sys.argv[1], sys.argv[1]))
    take_names(keras)
    main(keras, Path(sys.argv[2]))
