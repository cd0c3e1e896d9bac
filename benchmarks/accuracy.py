"""What 8 bits cost in accuracy after few steps: here, with tfmot, and without training for it.

    python benchmarks/accuracy.py                  # tf_keras, tfmot beside ours: some 20 minutes
    python benchmarks/accuracy.py --keras 3        # Keras 3, ours alone
    python benchmarks/accuracy.py --nets LeNet ResNet --steps 50 --ranges 255 --seeds 10
    python benchmarks/accuracy.py --quick          # does it run? LeNet, 1 seed, 5 steps

Five small nets on scikit-learn's digits, 8 x 8 pixels in [0, 1] or in [0, 255]: the net takes the
numbers as they come, with no layer in front that rescales them. Each net is first trained in float.
From these weights, with the same optimizer begun anew and the same batches in the same order, go on

- `Compress`, rounding from the first step on (no delay, so no step in which ranges are only
  watched), and its own export;
- the same with the optimizer as the float steps left it: what one fit with a delay does, where
  tfmot's model has to be compiled anew;
- tfmot's `quantize_model`, where it takes the net, and `tf.lite` as its guide has it;
- the float net itself: what the steps alone are worth, whatever is rounded;

and post-training int8 by `tf.lite` makes its file of these weights after 0 steps, calibrated on 200
images. As nothing but the step's number changes in a longer training, that of 50 steps is the
beginning of that of 200: one fit goes on where the last one ended, and each leaves its file.

LiteRT runs the files on 450 test images, where one image is 0.22 points. A standard error is that
of the mean over seeds; of a difference, that of the differences seed by seed. Between two equal
methods one difference in five lies more than that below zero, with three seeds: hence the lines
that put all nets and steps into one mean.

Each net and seed is a process of its own.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import keras_of, mean, standard_error
from nets_of_digits import NETS
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc

BATCH = 32
FLOAT_STEPS = 1500
RATE = 1e-3  # of Adam
LOSS = "sparse_categorical_crossentropy"
CALIBRATION = 200  # images
FLOAT, POST_TRAINING, OURS, TFMOT = "float", "post-training", "keras_compress", "tfmot"
ONE_FIT = "one fit"
EARLY, RAW, AHEAD = 50, 255, 3.0  # points above tfmot after so many steps with inputs up to that


# --- data


def load_data(top):
    """(x_train, x_test, y_train, y_test); images of 8 x 8 x 1 in [0, top]."""
    digits = load_digits()
    images = (digits.images[..., None] * (top / 16)).astype("float32")
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def batches(rows, steps, seed):
    """The rows of so many whole batches, every epoch in an order of its own."""
    draw = np.random.default_rng(seed)
    epochs = -(-steps * BATCH // rows)
    return np.concatenate([draw.permutation(rows) for _ in range(epochs)])[: steps * BATCH]


# --- what a child does


class Bench:
    """One net, one seed, one range of inputs: trains it and makes its files."""

    def __init__(self, net, seed, top, arguments):
        self.keras = keras_of(arguments.keras)
        self.net, self.seed, self.arguments = net, seed, arguments
        self.notes = []
        """Why there is no number: of tfmot, which does not take the net, say."""
        self.x, self.x_test, self.y, self.y_test = load_data(top)
        self.keras.utils.set_random_seed(seed)
        model = self.compiled(self.model(), RATE)
        self.train(model, batches(len(self.x), arguments.float_steps, seed))
        self.weights = model.get_weights()
        self.slots = [variable.numpy() for variable in model.optimizer.variables]

    def model(self, weights=None):
        """The net, built anew; not compiled."""
        model = NETS[self.net](self.keras)
        if weights is not None:
            model.set_weights(weights)
        return model

    def compiled(self, model, rate=None):
        """With an optimizer that has not seen a step."""
        optimizer = self.keras.optimizers.Adam(rate or self.arguments.rate)
        model.compile(optimizer, LOSS, jit_compile=False)
        return model

    def train(self, model, order, callbacks=()):
        x, y = self.x[order], self.y[order]
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=list(callbacks))

    def parts(self):
        """(number of steps until then, rows of the batches) from one file to the next."""
        steps = sorted(self.arguments.steps)
        order = batches(len(self.x), steps[-1], [self.seed, 1])
        cuts = [BATCH * each for each in steps[:-1]]
        return zip(steps, np.split(order, cuts), strict=True)

    def scores(self):
        """Yields (method, steps, accuracy in per cent, number of float ops in the file)."""
        model = self.compiled(self.model(self.weights))
        try:
            yield POST_TRAINING, 0, *self.of_file(converted(model, self.x[:CALIBRATION]))
        except (
            ValueError
        ) as error:  # as of a layer of nothing but zeros, whose scale is next to none
            self.notes.append(f"{self.net}, {POST_TRAINING}, seed {self.seed}: {error}")
        yield FLOAT, 0, self.in_float(model), 0
        for steps, order in self.parts():
            self.train(model, order)
            yield FLOAT, steps, self.in_float(model), 0
        yield from self.ours(OURS)
        yield from self.ours(ONE_FIT)
        if self.arguments.keras == 2:
            yield from self.with_tfmot()

    def ours(self, method):
        model = self.compiled(self.model(self.weights))
        if method == ONE_FIT:
            self.going_on(model.optimizer, model.trainable_variables)
        for steps, order in self.parts():
            with tempfile.TemporaryDirectory() as folder:
                export = kc.Export(os.path.join(folder, "net.tflite"))
                compress = kc.Compress(quantization=kc.Quantization(), export=export, verbose=0)
                self.train(model, order, [compress])
                if compress.report.export.error:
                    raise RuntimeError(compress.report.export.error)
                yield method, steps, *self.of_file(pathlib.Path(export.path).read_bytes())

    def going_on(self, optimizer, variables):
        """Gives an optimizer the state of that of the float steps, but for the rate asked for."""
        optimizer.build(variables)
        rate = float(optimizer.learning_rate.numpy())
        for variable, value in zip(optimizer.variables, self.slots, strict=True):
            variable.assign(value)
        optimizer.learning_rate.assign(rate)

    def with_tfmot(self):
        from tensorflow_model_optimization.quantization.keras import quantize_model, quantize_scope

        model = self.model(self.weights)
        try:
            with quantize_scope({type(layer).__name__: type(layer) for layer in model.layers}):
                wrapped = quantize_model(model)
        except (RuntimeError, ValueError) as error:
            reason = re.sub(r"(_\d+)?:<class .*?>", "", str(error).strip().partition(". ")[0])
            self.notes.append(f"tfmot refuses {self.net}: {reason}")
            return
        model = self.compiled(wrapped)
        for steps, order in self.parts():
            self.train(model, order)
            yield TFMOT, steps, *self.of_file(converted(model))

    def accuracy(self, answers):
        return 100 * float(np.mean(answers.argmax(axis=-1) == self.y_test))

    def in_float(self, model):
        return self.accuracy(model.predict_on_batch(self.x_test))

    def of_file(self, content):
        file = kc.load_tflite(content, probe=False)
        accuracy = self.accuracy(file.predict(self.x_test))
        return accuracy, len(kc.inspect_tflite(content, probe=False).float_ops)


def converted(model, images=None):
    """The integer file that `tf.lite` makes of a model; calibrated if images are given."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    if images is not None:
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    return converter.convert()


def child(net, seed, arguments):
    """{"rows": [(range, method, steps, accuracy, float ops)], "notes": what else is to be said}"""
    rows, notes = [], []
    for top in arguments.ranges:
        bench = Bench(net, seed, top, arguments)
        rows += [(top, *row) for row in bench.scores()]
        notes += bench.notes
    return {"rows": rows, "notes": notes}


# --- the parent


def measure(net, seed, arguments):
    """What `child` found in a process of its own."""
    command = [sys.executable, __file__, "--child", net, str(seed)]
    for option in ("keras", "float_steps", "rate"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    for option in ("ranges", "steps"):
        command += [f"--{option}", *map(str, getattr(arguments, option))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{net}, seed {seed}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Scores:
    """The accuracies of all files, and the differences that targets are about."""

    def __init__(self, arguments):
        self._arguments = arguments
        self._found = {}
        self.notes = {}

    def add(self, net, rows, notes=()):
        """One seed of a net, as `child` found it."""
        self.notes |= dict.fromkeys(notes)
        for top, method, steps, accuracy, float_ops in rows:
            self._found.setdefault((net, top, method, steps), []).append(accuracy)
            if float_ops:
                self.notes[f"{net}, {method}: {float_ops} float op(s) in the file"] = None

    def of(self, *key):
        """The accuracies by seed; None where there is no file."""
        return None if key not in self._found else np.array(self._found[key])

    @property
    def rows(self):
        """(net, range, steps)"""
        arguments = self._arguments
        return [
            (net, top, steps)
            for net in arguments.nets
            for top in arguments.ranges
            for steps in sorted(arguments.steps)
        ]

    def ahead(self, net, top, steps, of=TFMOT, ours=OURS):
        """By how many points ours is above another, by seed; None where that refuses."""
        theirs = self.of(net, top, of, steps)
        return None if theirs is None else self.of(net, top, ours, steps) - theirs

    def comparisons(self, ours):
        """Those that there are: (net, range, steps) -> differences by seed."""
        found = {row: self.ahead(*row, ours=ours) for row in self.rows}
        return {row: ahead for row, ahead in found.items() if ahead is not None}


def table(title, scores):
    made = rich.table.Table(title=title, title_justify="left")
    for column in ("net", "inputs"):
        made.add_column(column, no_wrap=True)
    methods = (FLOAT, POST_TRAINING, OURS, ONE_FIT, TFMOT)
    differences = ((OURS, FLOAT), (OURS, TFMOT), (ONE_FIT, TFMOT))
    for column in ("steps", *methods, *(f"{ours} - {of}" for ours, of in differences)):
        made.add_column(column, justify="right", no_wrap=True)
    previous = None
    for net, top, steps in scores.rows:
        if (net, top) != previous:
            cells = [shown(scores.of(net, top, each, 0)) for each in (FLOAT, POST_TRAINING)]
            made.add_row(net, rf"\[0, {top}]", "0", *cells, *"------")
            previous = net, top
        found = [scores.of(net, top, method, steps) for method in methods]
        ahead = [scores.ahead(net, top, steps, of, ours) for ours, of in differences]
        cells = [*map(shown, found), *(shown(each, "+.2f") for each in ahead)]
        made.add_row("", "", str(steps), *cells)
    return made


def shown(accuracies, form=".2f"):
    return "-" if accuracies is None else mean(accuracies, form)


def verdicts(scores, ours):
    """The targets, each met or missed, with the numbers; none where tfmot takes no net."""
    compared = scores.comparisons(ours)
    if not compared:
        return
    below = {row: each for row, each in compared.items() if each.mean() < -standard_error(each)}
    count = f"{len(below) or len(compared)} of {len(compared)}"
    yield (
        f"nowhere below tfmot beyond one standard error: {'MISSED' if below else 'met'} in {count}"
        + (f": {told(below)}" if below else "")
    )
    nets, ranges = (list(dict.fromkeys(each)) for each in list(zip(*compared, strict=True))[:2])
    for top in ranges:
        # Of one net and seed the numbers after so and so many steps belong together.
        by_seed = [
            np.mean([each for row, each in compared.items() if row[:2] == (net, top)], axis=0)
            for net in nets
        ]
        yield f"[0, {top}], {', '.join(nets)}, all steps: {mean(np.concatenate(by_seed), '+.2f')}"
    early = {row: each for row, each in compared.items() if row[1:] == (RAW, EARLY)}
    if early:
        short = {row: each for row, each in early.items() if each.mean() < AHEAD}
        count = f"{len(short) or len(early)} of {len(early)}"
        yield (
            f"at least {AHEAD:g} points above it at {EARLY} steps with [0, {RAW}]: "
            f"{'MISSED' if short else 'met'} in {count}: {told(early)}"
        )


def told(compared):
    return ", ".join(
        f"{net} [0, {top}] {steps} steps {mean(ahead, '+.2f')}"
        for (net, top, steps), ahead in compared.items()
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=2, help="2: with tfmot")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--ranges", nargs="+", type=int, choices=(1, 255), default=[1, 255])
    parser.add_argument("--steps", nargs="+", type=int, default=[50, 200, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float-steps", type=int, default=FLOAT_STEPS)
    parser.add_argument("--rate", type=float, default=RATE, help="of Adam, after the float steps")
    parser.add_argument("--quick", action="store_true", help="LeNet, 1 seed, 5 steps")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        net, seed = arguments.child
        print(json.dumps(child(net, int(seed), arguments)))
        return
    if arguments.quick:
        arguments.nets, arguments.seeds = ["LeNet"], 1
        arguments.steps, arguments.float_steps = [5], 200
    scores = Scores(arguments)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("nets", total=len(arguments.nets) * arguments.seeds)
        for net in arguments.nets:
            progress.update(task, description=net)
            for seed in range(1, arguments.seeds + 1):
                scores.add(net, **measure(net, seed, arguments))
                progress.advance(task)

    keras = keras_of(arguments.keras)
    title = (
        f"Test accuracy (%) on digits, {keras.__name__} {keras.__version__}, "
        f"{arguments.float_steps} float steps first, {arguments.seeds} seed(s)"
    )
    console = rich.console.Console(width=180)
    console.print(table(title, scores))
    lines = list(scores.notes)
    for method in (OURS, ONE_FIT):
        lines += [f"{method}, {line}" for line in verdicts(scores, method)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
