"""MobileNet SSD V2, pruned and trained for integers in one `fit`, with its detections in the file.

    python examples/ssd_mobilenet_v2.py                # Keras 3
    python examples/ssd_mobilenet_v2.py --keras 2      # tf_keras
    python examples/ssd_mobilenet_v2.py --seeds 3      # means, with their standard errors
    python examples/ssd_mobilenet_v2.py --quick        # does it run? a few images, one epoch
    python examples/ssd_mobilenet_v2.py --train train.json train/ --test test.json test/

The job of the TF1 tutorials: a MobileNetV2 with an SSD's heads, `graph_rewriter { quantization {
delay: ... } }`, and a file for `--inference_type=QUANTIZED_UINT8 --mean_values=128
--std_dev_values=128` with the four outputs of `TFLite_Detection_PostProcess`. And what they leave
out: what is lost on the way. A float network is trained, and three go on from it alike, as the
tutorials do from their `fine_tune_checkpoint`: one in float, one with `Compress(quantization=...)`,
one with `pruning=` besides. The table compares the files of the first, as they are and quantized
after training, with the files of the others, in mAP as COCO counts it. Every file takes its own way
through LiteRT, non-maximum suppression included.

The images are drawn: shapes of five kinds on textures. `--train` and `--test` take data of your own
in COCO's form, a JSON and the folder of its images. On two idle cores it takes less than a quarter
of an hour, `--quick` about a minute. It needs `pip install 'keras-compress[examples]'`.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.table
from ssd import coco, measure, network, picture, shapes

import keras_compress as kc

TEST_SEED = 10**6
RATE, RATE_ON = 2e-2, 5e-3  # the highest learning rates, of the first fit and of those behind it
STATS = (128, 128)  # --mean_values=128 --std_dev_values=128


class Clock:
    """Lines that tell how far everything is, and when it will be done."""

    def __init__(self, epochs):
        self.epochs, self.done, self.begin = epochs, 0, time.perf_counter()

    def callback(self, keras, title, epochs):
        def tell(epoch, logs=None):
            self.done += 1
            gone = time.perf_counter() - self.begin
            left = gone * (self.epochs - self.done) / self.done
            print(
                f"{title}: epoch {epoch + 1} of {epochs}, loss {logs['loss']:.3f}; "
                f"{clock(gone)} gone, about {clock(left)} of training to go",
                flush=True,
            )

        return keras.callbacks.LambdaCallback(on_epoch_end=tell)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run(keras, train, test, arguments, seed, told):
    """Train four networks and export seven files: {row of the table: its columns}, the paths."""
    images, annotations = train
    classes = len(coco.names(annotations))
    folder = arguments.folder

    def fit(title, epochs, rate, *callbacks, weights=None):
        """The same weights, images and order of them for every network that goes on."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model, anchors = network.build(keras, arguments.pixels, classes, arguments.alpha)
        if weights is not None:
            model.set_weights(weights)
        network.compile_model(keras, model, epochs * (len(images) // arguments.batch), rate)
        order = seed if weights is None else seed + 1
        data = network.dataset(
            images, coco.boxes(annotations), classes, anchors, arguments.batch, order
        )
        model.fit(
            data,
            epochs=epochs,
            shuffle=False,  # the data are shuffled already
            verbose=0,
            callbacks=[*callbacks, told.callback(keras, f"seed {seed}, {title}", epochs)],
        )
        return model

    model, anchors = network.build(keras, arguments.pixels, classes, arguments.alpha)
    op = kc.DetectionPostProcess(
        anchors,
        max_detections=30,
        nms_score_threshold=0.01,  # low, for mAP counts what comes late as well
        nms_iou_threshold=0.5,
        use_regular_nms=True,
    )

    def export(name, **options):
        return kc.Export(folder / f"ssd_{name}.tflite", postprocess=op, **options)

    integers = {"inference_input_type": "uint8", "quantized_input_stats": STATS}
    verify = network.as_input(test[0][:64]).numpy()

    # Half of the backbone's weights go in the first third, while the learning rate can still repair
    # the damage; from 70 % of the fit on the network computes as the file will. For the last tenth
    # ranges and batch norms stand still.
    quantization = kc.Quantization(delay=0.7, freeze_step=0.9)
    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.0, end_step=0.35, frequency=10)
    pruning = kc.Pruning(half, layers=network.backbone_kernels(model))
    quantized, pruned = (
        kc.Compress(
            pruning=chosen,
            quantization=quantization,
            export=export(name, verify_data=verify, **integers),
        )
        for name, chosen in (("int8", None), ("pruned_int8", pruning))
    )
    before = fit("float", arguments.epochs, RATE)
    more = {"weights": before.get_weights()}
    plain = fit("float, on", arguments.more, RATE_ON, **more)
    fit("quantized", arguments.more, RATE_ON, quantized, **more)
    model = fit("pruned and quantized", arguments.more, RATE_ON, pruned, **more)
    for compress in (quantized, pruned):
        if not compress.report.export.written:  # a failing export never costs the training
            raise SystemExit(str(compress.report.export))

    some = network.as_input(images[:256]).numpy()
    reports = {
        "float, before": kc.export_tflite(before, export("before", mode="float32")),
        "float": kc.export_tflite(plain, export("float", mode="float32")),
        "float16": kc.export_tflite(plain, export("float16", mode="float16")),
        "dynamic": kc.export_tflite(plain, export("dynamic", mode="dynamic")),
        "post-training int8": kc.export_tflite(
            plain, export("post_training", representative_dataset=some, **integers)
        ),
        "int8": quantized.report.export,
        "half pruned, int8": pruned.report.export,
    }
    # The same network without the op: boxes and scores as integers, for a program that chooses.
    raw = kc.Export(folder / "ssd_heads.tflite", **integers)
    step = kc.export_tflite(model, raw).outputs["boxes"]["scale"]
    print(
        f"One step of the pruned file's boxes is {step:.4f}: {step / op.x_scale:.2%} of an "
        f"anchor's width for a center, {np.expm1(step / op.w_scale):.2%} of a box's own for a width"
    )
    rows = {name: measure.row(report, *test) for name, report in reports.items()}
    return rows, {name: report.path for name, report in reports.items()}


def table(title, runs):
    """One row for each file: means over `runs`, mAP with its standard error."""
    made = rich.table.Table(title=title, title_justify="left")
    made.add_column("file")
    for name in ("mAP", "to float", "bytes", "zipped", "ms"):
        made.add_column(name, justify="right")
    for row in runs[0]:
        values = np.array([each[row] for each in runs])
        to_float = values[:, 0] - np.array([each["float"][0] for each in runs])
        _, size, zipped, latency = values.mean(axis=0)
        made.add_row(
            row,
            with_error(values[:, 0]),
            with_error(to_float, "+") if row != "float" else "-",
            f"{size:,.0f}",
            f"{zipped:,.0f}",
            f"{latency:.2f}",
        )
    return made


def with_error(values, sign=""):
    """A mean, with its standard error where there are several values."""
    text = f"{values.mean():{sign}.2f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted from --seed")
    parser.add_argument("--pixels", type=int, default=64, help="of the network's square images")
    parser.add_argument("--alpha", type=float, default=0.5, help="MobileNetV2's width")
    parser.add_argument("--images", type=int, default=8000, help="to train on, at most")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--more", type=int, default=4, help="epochs of the fits that go on")
    parser.add_argument("--batch", type=int, default=32)
    for name in ("--train", "--test"):
        what = "data in COCO's form: its JSON, and the folder of its images"
        parser.add_argument(name, nargs=2, metavar=("JSON", "FOLDER"), help=what)
    parser.add_argument("--folder", type=pathlib.Path, default=".", help="where the files go")
    parser.add_argument("--quick", action="store_true", help="a few images, one epoch")
    arguments = parser.parse_args()
    if (arguments.train is None) != (arguments.test is None):
        parser.error("--train and --test come together")
    tested = 500
    if arguments.quick:
        arguments.images, arguments.batch, tested = 160, 8, 24
        arguments.epochs = arguments.more = 1

    # What Compress does and when is printed.
    if arguments.keras == 3:
        import keras
    else:
        import tf_keras as keras

    if arguments.train is None:
        name = "drawn shapes"
        train = shapes.draw(arguments.images, arguments.pixels, arguments.seed)
        test = shapes.draw(tested, arguments.pixels, TEST_SEED)
    else:
        name = arguments.train[0]
        train = coco.load(*arguments.train, arguments.pixels, arguments.images)
        test = coco.load(*arguments.test, arguments.pixels)
    told = Clock((arguments.epochs + 3 * arguments.more) * arguments.seeds)
    console = rich.console.Console(width=100)
    runs = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        rows, paths = run(keras, train, test, arguments, seed, told)
        runs.append(rows)
        title = (
            f"MobileNetV2 {arguments.alpha}, {len(train[0])} images of {name}, "
            f"{arguments.epochs} + {arguments.more} epochs, {len(runs)} seed(s)"
        )
        console.print(table(f"{title}, {keras.__name__} {keras.__version__}", runs))
        picture.save(
            arguments.folder / "ssd.png",
            test[0][:6],
            coco.names(test[1]),
            {each: paths[each] for each in ("float", "half pruned, int8")},
        )


if __name__ == "__main__":
    main()
