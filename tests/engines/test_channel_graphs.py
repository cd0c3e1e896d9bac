"""Seeded random networks: without the dropped channels they answer as with them masked."""

import numpy as np
import pytest
from helpers.channel_graphs import ChannelGraph
from helpers.dropped_channels import answers, assert_same, pruned

import keras_compress as kc

IN_SUITE = 3


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
