"""What compression costs per training step, against the plain step and against tfmot.

    python benchmarks/step_time.py                       # tf_keras, with tfmot beside it
    python benchmarks/step_time.py --keras 3             # Keras 3, ours alone
    python benchmarks/step_time.py --keras 3 --jit 1     # under XLA
    python benchmarks/step_time.py --quick               # does it run? LeNet, three steps each

How it measures. A row has a few competitors: the plain model, ours, tfmot's where there is one, and
the plain model a second time. A round times the same number of steps of each of them, one after
the other in an order that is drawn anew; so whatever else the machine does falls on all alike. What
is compared are the ratios within a round: their median over all rounds, with the 95 % interval of
2000 bootstrap samples. The second plain model gives the A/A column: how far from 1 nothing at all
can be. A target counts as met when the lower end of our interval is at or below it.

Every model trains in `fit`, callbacks included, on one batch that is repeated. The clock runs from
the beginning of one batch to that of another, so building, tracing and the ends of `fit` are not
in it. XLA is used where Keras itself would (`jit_compile="auto"`: with a GPU, by Keras 3), unless
`--jit` says otherwise.
On a machine that does other things the ratios are those of these things, so it is refused.

Below the table stands of what a step's graph has more than the plain one: ops by their kinds, the
bodies of conditions included, before TensorFlow makes them fewer.
"""

import argparse
import collections
import dataclasses
import functools
import gc
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import Interval, jit_of, keras_of

import keras_compress as kc

BUSY = 0.5  # of other processes, in cores: more, and nothing is measured
SHOWN_OPS = 10
WARM_UP = 5  # steps of each fit before the clock runs
MILLION = (1000, 1000)  # the shape of the kernel whose mask is timed


# --- the models


def lenet(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def mobilenet(keras):
    shape = (96, 96, 3)
    return keras.applications.MobileNetV2(shape, alpha=0.35, weights=None)


def own_layers(keras):
    """Two layers that no row of the placement table knows: they are rounded op by op."""
    import tensorflow as tf

    layers = keras.layers

    class Gated(layers.Layer):
        def build(self, shape):
            size = shape[-1]
            self.kernel, self.gate = (
                self.add_weight(shape=(size, size), name=name) for name in ("kernel", "gate")
            )

        def call(self, x):
            return tf.nn.relu(x @ self.kernel) * tf.sigmoid(x @ self.gate) + x

    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            Gated(),
            Gated(),
            layers.Dense(10, activation="softmax"),
        ]
    )


OWN = "own layers b32"
NETS = {"LeNet b32": (lenet, 32), "MobileNetV2 b16": (mobilenet, 16), OWN: (own_layers, 32)}


class Bench:
    """One Keras, one net (what builds it, and the rows of a batch): makes its models and times
    their steps.
    """

    def __init__(self, keras, net, jit):
        self.keras = keras
        self.jit = jit
        self.more_ops = collections.Counter()
        """Of the last model of ours that was made, beyond the plain one's."""
        self._build, self._batch = net

    @functools.cached_property
    def under_xla(self):
        """Whether Keras compiles the steps of this net with XLA."""
        return bool(self.model().jit_compile)

    def model(self, transform=lambda model: model):
        """The net, changed by `transform` and compiled; equal weights at every call."""
        self.keras.utils.set_random_seed(0)
        model = transform(self._build(self.keras))
        # A step so small that the weights stay where they are: a net that has learnt its one batch
        # by heart computes with other numbers than one in training.
        optimizer = self.keras.optimizers.Adam(1e-6)
        loss = "sparse_categorical_crossentropy"
        model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=self.jit)
        return model

    def data(self, model):
        import tensorflow as tf

        generator = np.random.default_rng(0)
        images = generator.random((self._batch, *model.input_shape[1:]), "float32")
        labels = generator.integers(0, model.output_shape[-1], self._batch)
        return tf.data.Dataset.from_tensors((images, labels)).repeat()

    def stepper(self, model, callbacks=()):
        """`steps -> seconds` for a model; its first call, which traces, is already over."""
        data = self.data(model)

        class Clock(self.keras.callbacks.Callback):
            _supports_tf_logs = True  # else tf_keras fetches the logs at every step for it

            def __init__(self, first, last):
                super().__init__()
                self.first, self.last = first, last

            def on_train_batch_begin(self, batch, logs=None):
                if batch in (self.first, self.last):
                    self.model.trainable_weights[0].numpy()  # a GPU may still be at the last step
                if batch == self.first:
                    self.started = time.perf_counter()
                elif batch == self.last:
                    self.seconds = time.perf_counter() - self.started

        def step(steps):
            last = WARM_UP + steps
            clock = Clock(WARM_UP, last)
            called = [*callbacks, clock]
            model.fit(data, steps_per_epoch=last + 1, shuffle=False, verbose=0, callbacks=called)
            return clock.seconds

        step(1)
        return step

    def ops(self, model):
        """How many ops of each kind the graph of a training step has."""
        import tensorflow as tf

        batch = next(iter(self.data(model)))
        function = tf.function(model.train_step).get_concrete_function(batch)
        graph = function.graph.as_graph_def()
        bodies = (body.node_def for body in graph.library.function)
        return collections.Counter(
            node.op for nodes in (graph.node, *bodies) for node in nodes if node.op != "Const"
        )

    @functools.cached_property
    def plain_ops(self):
        model = self.model()
        self.stepper(model)
        return self.ops(model)

    @functools.cached_property
    def plain(self):
        return self.stepper(self.model())

    @functools.cached_property
    def plain_again(self):
        return self.stepper(self.model())

    def ours(self, **specs):
        """A model that one short fit with `Compress` has attached; bare fits then go on with it."""
        model = self.model()
        compress = kc.Compress(**specs, partial=True, verbose=0)
        data = self.data(model)
        model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0, callbacks=[compress])
        self.more_ops = self.ops(model) - self.plain_ops
        return self.stepper(model)

    def ours_off(self):
        return self.ours(quantization=kc.Quantization(delay=10**9))

    def ours_on(self):
        return self.ours(quantization=kc.Quantization(delay=0))

    def ours_pruned(self, frequency):
        schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=frequency)
        return self.ours(pruning=kc.Pruning(schedule))

    def tfmot_on(self):
        import tensorflow_model_optimization as tfmot

        return self.stepper(self.model(tfmot.quantization.keras.quantize_model))

    def tfmot_pruned(self, frequency):
        from tensorflow_model_optimization.sparsity import keras as sparsity

        schedule = sparsity.ConstantSparsity(0.5, begin_step=0, frequency=frequency)
        prune = functools.partial(sparsity.prune_low_magnitude, pruning_schedule=schedule)
        return self.stepper(self.model(prune), [sparsity.UpdatePruningStep()])


# --- one mask update


def mask_update(jit):
    """`(ours, tfmot's)`: each `updates -> seconds` for one kernel of a million weights.

    Raises:
        RuntimeError: the two masks differ.
    """
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

    from keras_compress.engines.in_place.masks import magnitude_mask

    kernel = tf.Variable(np.random.default_rng(0).normal(size=MILLION).astype("float32"))
    step = tf.constant(1, tf.int64)

    def functions(sparsity):
        schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=0)
        reference = Pruning(lambda: step, [], schedule, (1, 1), "AVG")
        ours = functools.partial(magnitude_mask, kernel, tf.constant(sparsity))
        return [
            tf.function(function, jit_compile=jit)
            for function in (ours, lambda: reference._update_mask(kernel)[1])
        ]

    for sparsity in (0.1, 0.5, 0.9):
        ours, theirs = functions(sparsity)
        if not np.array_equal(ours().numpy(), theirs().numpy().astype(bool)):
            raise RuntimeError(f"the masks of sparsity {sparsity} differ")

    def updater(function):
        function()

        def update(updates):
            started = time.perf_counter()
            for _ in range(updates):
                function()
            return time.perf_counter() - started

        return update

    return [updater(function) for function in functions(0.5)]


# --- rounds


def rounds(competitors, steps, count, tick):
    """Name -> the seconds of `steps` steps of each competitor (name -> stepper), `count` times."""
    generator = np.random.default_rng(0)
    seconds = {name: [] for name in competitors}
    for _ in range(count):
        for name in generator.permutation(list(competitors)):
            seconds[name].append(competitors[name](steps))
        tick()
    return {name: np.array(values) for name, values in seconds.items()}


@dataclasses.dataclass
class Row:
    """A line of the table: what is timed against what, and what is to be reached.

    `unit` divides: another competitor's name for ratios, or None for milliseconds of one step.
    """

    name: str
    make: Callable[[], dict]
    bench: Bench | None = None
    unit: str | None = "plain"
    at_most: float | None = None
    at_most_tfmot: bool = False
    share: float = 1.0
    """Of the steps that are asked for; a mask update takes longer than a step."""

    def measure(self, steps, count, tick):
        steps = max(1, round(steps * self.share))
        seconds = rounds(self.make(), steps, count, tick)
        divisor = steps / 1000 if self.unit is None else seconds[self.unit]
        results = {name: Interval.of(values / divisor) for name, values in seconds.items()}
        again, base = ("ours again", "ours") if self.unit is None else ("plain again", "plain")
        gc.collect()  # models are full of cycles, and the next row makes its own
        results["A/A"] = Interval.of(seconds[again] / seconds[base])
        return results

    def verdict(self, results):
        """(target, met?) as text."""
        limits = [] if self.at_most is None else [(f"<= {self.at_most:g}", self.at_most)]
        if self.at_most_tfmot and "tfmot" in results:
            limits.append(("<= tfmot", results["tfmot"].median))
        met = all(results["ours"].low <= limit for _, limit in limits)
        text = ", ".join(name for name, _ in limits)
        return (text, "yes" if met else "NO") if limits else ("-", "-")


def step_rows(bench, net, with_tfmot):
    """The rows of one net."""

    def row(name, ours, tfmot=None, **target):
        def make():
            competitors = {"plain": bench.plain, "ours": ours(), "plain again": bench.plain_again}
            if with_tfmot and tfmot is not None:
                competitors["tfmot"] = tfmot()
            return competitors

        return Row(f"{net}: {name}", make, bench, **target)

    def pruned(name, frequency, **target):
        ours = functools.partial(bench.ours_pruned, frequency)
        return row(name, ours, functools.partial(bench.tfmot_pruned, frequency), **target)

    large = net.startswith("MobileNetV2")
    on = 1.05 if bench.under_xla else 1.15 if large else 1.12
    rows = [
        row("off / plain", bench.ours_off, at_most=1.02),
        row("on / plain", bench.ours_on, bench.tfmot_on, at_most=on, at_most_tfmot=True),
    ]
    if net == OWN:
        return rows
    every_step = 1.12 if large else 1.15
    return [
        *rows,
        pruned("pruned, mask every 100 / plain", 100, at_most=1.02),
        pruned("pruned, mask every step / plain", 1, at_most=every_step, at_most_tfmot=True),
    ]


def mask_row(jit):
    def make():
        ours, theirs = mask_update(jit)
        return {"ours": ours, "tfmot": theirs, "ours again": ours}

    return Row("mask update, 1 M weights (ms)", make, unit=None, at_most=3.0, share=0.05)


def load_of_others(parser, allowed):
    """What the machine does besides; an error of the command line where that is too much."""
    load = os.getloadavg()[0]
    if load > BUSY and not allowed:
        parser.error(f"the machine is busy (load {load:.2f}); wait until it is not, or say --busy")
    return load


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=2, help="2: with tfmot")
    parser.add_argument("--jit", type=int, choices=(0, 1), help="with XLA; default: as Keras does")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--steps", type=int, default=200, help="in a turn")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each competitor")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--quick", action="store_true", help="LeNet, 3 rounds of 3 steps")
    arguments = parser.parse_args()
    steps, count = (3, 3) if arguments.quick else (arguments.steps, arguments.rounds)
    load = load_of_others(parser, arguments.busy or arguments.quick)

    keras = keras_of(arguments.keras)
    jit = jit_of(arguments.keras, arguments.jit)
    rows = []
    for net in list(NETS)[: 1 if arguments.quick else None]:
        # tfmot takes no layer of one's own.
        with_tfmot = arguments.keras == 2 and net != OWN
        rows += step_rows(Bench(keras, NETS[net], jit), net, with_tfmot)
    rows.append(mask_row(bool(arguments.jit)))
    names = [row.name for row in rows]
    rows = [row for row in rows if arguments.only in row.name]
    if not rows:
        parser.error(f"--only must be part of a row's name, of {names}. Received: {arguments.only}")

    title = (
        f"{keras.__name__} {keras.__version__}, jit_compile={jit}, {count} rounds of {steps} "
        f"steps, load {load:.2f}: median [95 % interval]"
    )
    if arguments.quick:
        title += "; too few to mean anything"
    table = rich.table.Table(title=title, title_justify="left")
    for column in ("row", "ours", "tfmot", "A/A", "target", "met?"):
        table.add_column(column, no_wrap=True)
    more = {}
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        for row in rows:
            task = progress.add_task(row.name, total=count)
            results = row.measure(steps, count, lambda task=task: progress.advance(task))
            theirs = results.get("tfmot", "-")
            cells = (results["ours"], theirs, results["A/A"], *row.verdict(results))
            table.add_row(row.name, *map(str, cells))
            if row.bench is not None:
                more[row.name] = row.bench.more_ops
    console = rich.console.Console(width=160)
    console.print(table)
    for name, ops in more.items():
        counted = ", ".join(f"{kind} {count}" for kind, count in ops.most_common(SHOWN_OPS))
        console.print(f"{name}: {ops.total()} more ops: {counted}", highlight=False)


if __name__ == "__main__":
    main()
