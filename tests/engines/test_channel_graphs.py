"""Networks of many kinds: without the dropped channels they answer as with them masked."""

import numpy as np
import pytest
from helpers.channel_graphs import ChannelGraph
from helpers.dropped_channels import answers, assert_same, pruned

import keras_compress as kc
from keras_compress.engines.same_answers import drawn_weights

IN_SUITE = 3


@pytest.mark.slow_after(1)
@pytest.mark.by_turns
@pytest.mark.sweep_if(when=lambda seed: seed >= IN_SUITE)
@pytest.mark.parametrize("seed", range(50))
def test_the_small_network_of_a_random_graph_answers_as_the_masked_one(keras, seed):
    graph = ChannelGraph(keras, seed)
    before = answers(graph.model, graph.x)
    engine = pruned(graph.model, allocation=["uniform", "global"][seed % 2])
    masked = answers(graph.model, graph.x)
    assert engine.sparsity > 0.3
    moved = [np.abs(one - other).max() for one, other in zip(before, masked, strict=True)]
    assert max(moved) > 1e-3
    small = kc.strip(graph.model)
    assert small.count_params() < graph.model.count_params()
    assert_same(masked, answers(small, graph.x))


FAMILIES = {
    **dict.fromkeys(("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0"), 64),
    **dict.fromkeys(("EfficientNetV2B0", "ResNet50", "ResNet50V2", "DenseNet121", "VGG16"), 64),
    **dict.fromkeys(("NASNetMobile", "ConvNeXtTiny"), 64),
    **dict.fromkeys(("Xception", "InceptionV3", "InceptionResNetV2"), 75),
}
HARDER = {"ConvNeXtTiny": (0.6, ("LayerNormalization", "LayerScale", "groups"))}
"""What is left of the multiply-accumulates, and what stops the others."""


@pytest.mark.sweep
@pytest.mark.timeout(600)
# Of tf_keras' EfficientNetV2, whenever its config is asked for.
@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_applications_loses_most_of_what_it_computes(keras, name):
    size = FAMILIES[name]
    network = getattr(keras.applications, name)
    model = network(weights=None, input_shape=(size, size, 3), classes=10)
    engine = pruned(model)
    if (keras.__name__, name) == ("tf_keras", "ConvNeXtTiny"):
        # tf_keras itself cannot make it again from its config, pruned or not.
        with pytest.raises(ValueError, match="that its class can be made from"):
            kc.strip(model)
        return
    with drawn_weights(engine.adapter, model):  # or most of them say the same to everything
        small = kc.strip(model)  # which compares them
    left, stops = HARDER.get(name, (0.31, ()))
    assert kc.macs(small) <= left * kc.macs(model)
    reasons = engine.left_out["pruning"].values()
    others = [reason for reason in reasons if "outputs of the model" not in reason]
    assert all(any(stop in reason for stop in stops) for reason in others), others
    assert all(any(stop in reason for reason in others) for stop in stops[:2]), others
    small.predict(np.zeros((1, size, size, 3), "float32"), verbose=0)
