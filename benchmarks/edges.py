"""What the edges between the phases of quantization cost, against the start of a plain training.

    python benchmarks/edges.py                       # tf_keras
    python benchmarks/edges.py --keras 3             # Keras 3
    python benchmarks/edges.py --keras 3 --jit 1     # under XLA, as Keras 3 does where it has a GPU
    python benchmarks/edges.py --quick               # does it run? LeNet, one round

At an edge the training step is traced anew, once, and run for the first time; so is validation,
where its answer changes. A plain training does both when it begins. A round is one plain fit and
one with `Compress` whose phases last two steps each, with a validation behind them. What is
compared are ratios within a round, of the first step after the edge to the first step of the plain
fit, and of the first validation to its first validation; the median over all rounds with its 95 %
interval of 2000 bootstrap samples. A fit before the first round warms up.

"Python" is the part of it in which the step is traced, Keras' own Python included; the rest is
TensorFlow's: the function made of the trace, its optimizers or XLA, and the first run. "traces" are
those of the step and of validation in all rounds, by phase; plain training traces its step twice,
because the first time makes the optimizer's variables.
"""

import argparse
import collections
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import Interval, jit_of, keras_of
from step_time import NETS, Bench, load_of_others

import keras_compress as kc

AT_MOST = 1.3  # of the first step of a plain training
LENGTH = 2  # steps of a phase
PHASES = ("off", "watching", "on", "frozen")
STEP, VALIDATION = "step", "validation"


class Watch:
    """Times one fit: how long the first step and the first validation of every phase take, and how
    often and how long each was traced.
    """

    def __init__(self, keras):
        self.seconds = collections.Counter()
        self.traced = collections.Counter()
        self.traces = collections.Counter()
        self._phase = -1
        watch = self

        class Hooks(keras.callbacks.Callback):
            _supports_tf_logs = True  # else tf_keras fetches the logs at every step for it

            def on_epoch_begin(self, epoch, logs=None):
                watch._phase += 1

            def on_train_batch_begin(self, batch, logs=None):
                watch._started = time.perf_counter()

            def on_train_batch_end(self, batch, logs=None):
                if batch == 0:
                    watch._note(STEP)

            def on_test_begin(self, logs=None):
                watch._started = time.perf_counter()

            def on_test_end(self, logs=None):
                watch._note(VALIDATION)

        self.hooks = Hooks()

    def _note(self, what):
        self.seconds[what, PHASES[self._phase]] = time.perf_counter() - self._started

    def of(self, model):
        """The model, whose traces are counted and timed."""
        for what, method in ((STEP, "train_step"), (VALIDATION, "test_step")):
            vars(model)[method] = self._timing(what, getattr(model, method))
        return model

    def _timing(self, what, original):
        def step(data):
            started = time.perf_counter()
            result = original(data)
            key = what, PHASES[self._phase]
            self.traced[key] += time.perf_counter() - started
            self.traces[key] += 1
            return result

        return step


def fit(bench, *callbacks):
    """A `Watch` of one fit through as many epochs as there are phases."""
    watch = Watch(bench.keras)
    bench.keras.backend.clear_session()
    model = watch.of(bench.model())
    data = bench.data(model)
    model.fit(
        data,
        steps_per_epoch=LENGTH,
        epochs=len(PHASES),
        validation_data=data,
        validation_steps=1,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, watch.hooks],
    )
    return watch


def compress():
    """In charge of a fit in which each phase lasts one epoch."""
    quantization = kc.Quantization(
        delay=2 * LENGTH, calibration_steps=LENGTH, freeze_step=3 * LENGTH
    )
    return kc.Compress(quantization=quantization, verbose=0)


def measure(bench, rounds, tick):
    """Pairs of watches, of a plain fit and of one of ours."""
    fit(bench, compress())
    pairs = []
    for number in range(rounds):
        fits = [lambda: fit(bench), lambda: fit(bench, compress())]
        watches = [each() for each in (fits if number % 2 else fits[::-1])]
        pairs.append(watches if number % 2 else watches[::-1])
        tick()
    return pairs


def add_rows(table, net, pairs):
    """One row for each phase, the plain training's first."""

    def cells(watches, phase):
        for what in (STEP, VALIDATION):
            base = [plain.seconds[what, PHASES[0]] for plain, _ in pairs]
            seconds = [watch.seconds[what, phase] for watch in watches]
            of = np.sum([watch.traced[what, phase] for watch in watches]) / np.sum(seconds)
            traces = sum(watch.traces[what, phase] for watch in watches)
            yield from (f"{np.median(seconds):.2f}", f"{of:.0%}" if traces else "-", str(traces))
            if watches is not plain_ones:
                ratio = Interval.of(np.divide(seconds, base))
                yield str(ratio)
                if what == STEP:
                    yield "yes" if ratio.low <= AT_MOST else "NO"
            else:
                yield from ("-", "-") if what == STEP else ("-",)

    plain_ones = [plain for plain, _ in pairs]
    table.add_row(f"{net}: plain", *cells(plain_ones, PHASES[0]))
    for phase in PHASES:
        table.add_row(f"{net}: {phase}", *cells([ours for _, ours in pairs], phase))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=2, help="2 is tf_keras")
    parser.add_argument("--jit", type=int, choices=(0, 1), help="with XLA; default: as Keras does")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of fits of each net")
    parser.add_argument("--only", default="", help="nets whose name contains this")
    parser.add_argument("--quick", action="store_true", help="LeNet, one round")
    arguments = parser.parse_args()
    load = load_of_others(parser, arguments.busy or arguments.quick)
    keras = keras_of(arguments.keras)
    jit = jit_of(arguments.keras, arguments.jit)
    rounds = 1 if arguments.quick else arguments.rounds
    nets = [net for net in list(NETS)[: 1 if arguments.quick else 2] if arguments.only in net]

    title = (
        f"First step and first validation of each phase, {keras.__name__} {keras.__version__}, "
        f"jit_compile={jit}, {rounds} rounds, load {load:.2f}: median [95 % interval]"
    )
    table = rich.table.Table(title=title, title_justify="left")
    for column in (
        *("phase", "step (s)", "Python", "traces", "/ plain's first", f"<= {AT_MOST}?"),
        *("validation (s)", "Python", "traces", "/ plain's first"),
    ):
        table.add_column(column, no_wrap=True)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        for net in nets:
            task = progress.add_task(net, total=rounds)
            pairs = measure(
                Bench(keras, NETS[net], jit), rounds, lambda task=task: progress.advance(task)
            )
            add_rows(table, net, pairs)
    rich.console.Console(width=170).print(table)


if __name__ == "__main__":
    main()
