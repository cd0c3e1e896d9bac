"""What searches over a net for digits share."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from helpers.nets import small_net

ROWS, BATCH, VALIDATION = 160, 32, 90


def builder(keras, fits=None):
    """A `build` for digits. `fits` collects the epochs of each `fit` of a model it made."""

    def build(hp):
        optimizer = keras.optimizers.Adam(0.01)
        model = small_net(keras, optimizer=optimizer, jit_compile=False)
        if fits is not None:
            original = model.fit

            def fit(*args, **kwargs):
                fits.append(kwargs["epochs"])
                return original(*args, **kwargs)

            vars(model)["fit"] = fit
        return model

    return build


def run_by_litert(path, x):
    """The file's answers, quantized by hand from what the interpreter says of its ends."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (begin,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = begin["quantization"]
    answers = []
    for row in x:
        numbers = np.clip(np.floor(row / np.float32(scale) + np.float32(0.5)) + zero, -128, 127)
        interpreter.set_tensor(begin["index"], numbers[None].astype(np.int8))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(end["index"])[0])
    return np.array(answers)
