"""A mean keeps the range of what it is a mean of: it neither moves it nor makes the file float."""

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.by_turns

STEPS = 6


def conv(keras, x, filters, size=1):
    layers = keras.layers
    x = layers.Conv2D(filters, size, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(scale=False)(x))


def inception(keras, x):
    """A maximum that is read by convolutions and by a mean, as in InceptionV3."""
    layers = keras.layers
    x = layers.MaxPooling2D(3, 2)(x)
    mean = layers.AveragePooling2D(3, 1, "same")(x)
    branches = [conv(keras, x, 8), conv(keras, conv(keras, x, 6), 8, 3), conv(keras, mean, 4)]
    return layers.Concatenate()(branches)


def twice_active(keras, x):
    """Twice the same activation of one tensor, and means of one of them, as in NASNet."""
    layers = keras.layers
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(x))
    one, other = layers.ReLU(name="one")(x), layers.ReLU(name="other")(x)
    means = [
        layers.AveragePooling2D(1, 2)(other),
        layers.AveragePooling2D(1, 2)(
            layers.Cropping2D(((1, 0), (1, 0)))(layers.ZeroPadding2D(((0, 1), (0, 1)))(other))
        ),
    ]
    apart = [conv(keras, mean, 4) for mean in means]
    pooled = layers.AveragePooling2D(2, 2)(conv(keras, one, 8))
    return layers.Concatenate()([*apart, pooled])


def in_a_unit(keras, x):
    """The same by its ops: the layer is not in the table."""

    class Branches(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.active = keras.layers.ReLU()
            self.pool = keras.layers.MaxPooling2D(3, 2)
            self.mean = keras.layers.AveragePooling2D(3, 1, "same")
            self.convs = [keras.layers.Conv2D(4, 1) for _ in range(3)]
            self.join = keras.layers.Concatenate()

        def call(self, x):
            x = self.pool(self.active(x))
            mean = self.mean(x)
            given = (x, x, mean)
            return self.join([own(each) for own, each in zip(self.convs, given, strict=True)])

        def build(self, shape):
            filters = (None, 7, 7, shape[-1])
            for own in self.convs:
                own.build(filters)
            self.built = True

    return Branches()(conv(keras, x, 6))


NETS = {"inception": inception, "twice active": twice_active, "in a unit": in_a_unit}


def net(keras, kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(NETS[kind](keras, inputs))
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    return model


def trained(keras, kind, **arguments):
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (STEPS * 4, 16, 16, 3)).astype("float32")
    y = generator.integers(0, 4, STEPS * 4).astype("int32")
    model = net(keras, kind)
    pruning = kc.Pruning(
        kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3, frequency=1)
    )
    compress = kc.Compress(
        pruning=pruning, quantization=kc.Quantization(delay=2), verbose=0, **arguments
    )
    model.fit(x, y, batch_size=4, verbose=0, shuffle=False, callbacks=[compress])
    return model, compress


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", NETS)
def test_the_file_is_all_integer(keras, kind, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", allow_float_ops=True)
    _, compress = trained(keras, kind, export=export)
    report = compress.report.export
    assert report.error is None
    assert [str(op) for op in report.float_ops] == []
    assert max((layer.largest_steps for layer in report.layers), default=0) <= 2
    assert max(report.largest_steps.values()) <= 8


@pytest.mark.slow
def test_what_shares_a_range_does_not_move_it(keras):
    """Two activations of one tensor see the same numbers, whoever reads them."""
    model, _ = trained(keras, "twice active")
    quantizers = engine_of(model).quantizers
    own = {plan.path: plan.output for plan in quantizers.placement.operations}
    ranges = quantizers.ranges()
    np.testing.assert_array_equal(ranges[own["one"]], ranges[own["other"]])


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("given", ["the input", "a join"])
def test_a_mean_of_a_mean_in_a_unit_has_a_range_that_was_seen(keras, given):
    """The first has a range of its own, where nobody has rounded what it is a mean of."""

    class Pyramid(keras.layers.Layer):
        def build(self, shape):
            self.pools = [keras.layers.AveragePooling2D(2) for _ in range(2)]
            self.join = keras.layers.Concatenate()
            self.built = True

        def call(self, x):
            x = self.join([x, x]) if given == "a join" else x
            return self.pools[1](self.pools[0](x)) * 1.0

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(Pyramid()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    x = np.random.default_rng(0).uniform(0, 100, (16, 8, 8, 3)).astype("float32")
    compress = kc.Compress(quantization=kc.Quantization(delay=2), verbose=0)
    model.fit(x, np.zeros(16, "int32"), batch_size=4, verbose=0, callbacks=[compress])
    quantizers = engine_of(model).quantizers
    assert quantizers.planned_by_ops
    for key, limits in quantizers.ranges().items():
        if "Dense" not in key:
            assert limits[1] > 40, key
