"""MobileNetV2 with an SSD's heads on three scales, its losses, and its training."""

import numpy as np
import tensorflow as tf

from ssd import anchors

# Strides 8, 16 and 32: where MobileNetV2 is about to halve its grid, and its last block.
FEATURES = ("block_6_expand_relu", "block_13_expand_relu", "block_16_project_BN")
PRIOR = 0.02  # what every score begins at: nearly all anchors stand for nothing
SMALLEST = 1 / 512  # half a step of a score in an int8 file


def build(keras, pixels, classes, alpha):
    """(the model, its anchors): images in [-1, 1) to `boxes` [N, 4] and `scores` [N, classes]."""
    layers = keras.layers
    image = layers.Input((pixels, pixels, 3), name="image")
    backbone = keras.applications.MobileNetV2(
        input_tensor=image, alpha=alpha, include_top=False, weights=None
    )
    # Its batch norms follow their statistics by a thousandth at each update, too slow for so short
    # a training.
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.97
    features = [backbone.get_layer(name).output for name in FEATURES]

    def heads(name, columns, **options):
        """One number of columns for each anchor of every scale, finest first, [N, columns].

        A depthwise convolution and one over the channels, as SSDLite has it. Each is rounded over a
        range of its own; behind the concatenation all of them share one.
        """
        parts = []
        for scale, feature in enumerate(features):
            x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}{scale}_dw")(
                feature
            )
            x = layers.BatchNormalization(momentum=0.97, name=f"{name}{scale}_norm")(x)
            x = layers.ReLU(6.0, name=f"{name}{scale}_relu")(x)
            x = layers.Conv2D(anchors.PER_PLACE * columns, 1, name=f"{name}{scale}", **options)(x)
            parts.append(layers.Reshape((-1, columns), name=f"{name}{scale}_rows")(x))
        return layers.Concatenate(axis=1, name=name)(parts)

    prior = keras.initializers.Constant(np.log(PRIOR / (1 - PRIOR)))
    logits = heads("logits", classes, bias_initializer=prior)
    scores = layers.Activation("sigmoid", name="scores")(logits)
    model = keras.Model(image, [heads("boxes", 4), scores], name="ssd_mobilenet_v2")
    grids = [feature.shape[1] for feature in features]
    return model, anchors.anchors(grids)


def backbone_kernels(model):
    """The names of the layers that have nearly all of the weights: the convolutions over channels
    in MobileNetV2's blocks. The first convolution and the heads are small, and much hangs on them.
    """
    names = [layer.name for layer in model.layers]
    return [name for name in names if name.endswith(("_expand", "_project"))]


def box_loss(truth, boxes):
    """Huber's loss of the anchors that stand for a box, in each of the four numbers, a mean."""
    mask = truth[..., 4:]
    error = tf.abs(truth[..., :4] - boxes)
    huber = tf.where(error < 1, 0.5 * error**2, error - 0.5)
    return tf.reduce_sum(huber * mask) / tf.maximum(1.0, tf.reduce_sum(mask))


def score_loss(truth, scores):
    """Focal loss [1] of all anchors, by the number of those that stand for a box.

    [1] Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002: alpha 0.25,
    gamma 2.
    """
    target, counts = truth[..., :-1], truth[..., -1:]
    # A score that is rounded to 0 or 1 would have no logarithm; so it keeps its gradient too.
    p = SMALLEST + (1 - 2 * SMALLEST) * scores
    focal = -0.25 * target * (1 - p) ** 2 * tf.math.log(p)
    focal -= 0.75 * (1 - target) * p**2 * tf.math.log(1 - p)
    return tf.reduce_sum(focal * counts) / tf.maximum(1.0, tf.reduce_sum(target))


def compile_model(keras, model, updates, rate):
    """Adam, whose rate rises for a twentieth of the updates and then falls to a hundredth.

    Without XLA, which Keras 3 would use: on a CPU it compiles this net for a minute, again for each
    phase, and its steps are no faster.
    """
    warmup = max(1, updates // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 10, updates - warmup, alpha=0.01, warmup_target=rate, warmup_steps=warmup
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        {"boxes": box_loss, "scores": score_loss},
        loss_weights={"boxes": 1.0, "scores": 4.0},
        jit_compile=False,
    )


def dataset(images, annotated, classes, centered, batch, seed):
    """The training set as `fit` takes it: (images, targets), shuffled, and half of them turned
    from left to right with what their anchors are to say.

    Args:
        images: of bytes, [n, pixels, pixels, 3].
        annotated: boxes and classes of each, as `coco.boxes` gives them.
    """
    rows = [anchors.targets(*each, classes, centered) for each in annotated]
    where, what = (np.stack(each) for each in zip(*rows, strict=True))
    data = tf.data.Dataset.from_tensor_slices((images, where, what))

    places = anchors.mirrored(centered, axis=1)

    def changed(image, where, what):
        if tf.random.uniform(()) < 0.5:
            image = tf.reverse(image, [1])
            where = tf.gather(where, places) * anchors.MIRRORED
            what = tf.gather(what, places)
        return as_input(image), {"boxes": where, "scores": what}

    # One after the other, so that one seed gives one order and one choice.
    data = data.shuffle(len(images), seed=seed).map(changed)
    return data.batch(batch, drop_remainder=True).prefetch(4)


def as_input(images):
    """Images of bytes as the network takes them: mean 128, std 128."""
    return (tf.cast(images, "float32") - 128) / 128
