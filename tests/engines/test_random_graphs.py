"""Seeded random networks: the file answers as the network does, or was refused by name."""

import re

import pytest
from helpers.random_graphs import RandomGraph

import keras_compress as kc
from keras_compress.engines.in_place import plan, table

LARGEST_STEPS = 4


@pytest.fixture(autouse=True)
def untaught(monkeypatch):
    """What these tests take for unknown has a row by now, or is quantized by its ops."""
    monkeypatch.delitem(table.ACTIVATIONS, "elu")
    monkeypatch.delitem(table.TABLE, "LayerNormalization")
    monkeypatch.setattr(plan, "_units", lambda adapter, model, graph, unknown: ({}, dict(unknown)))


@pytest.mark.slow_after(1)
@pytest.mark.by_turns
@pytest.mark.sweep_if(when=lambda seed: seed >= 4)
@pytest.mark.parametrize("seed", range(50))
def test_a_random_graph_is_all_integer_and_answers_alike_or_is_refused_by_name(
    keras, seed, tmp_path
):
    graph = RandomGraph(keras, seed)
    path = tmp_path / "graph.tflite"
    export = kc.Export(path, verify_data=graph.head_of_data(32))
    compress = kc.Compress(
        quantization=kc.Quantization(delay=0.5, calibration_steps=8), export=export
    )
    before = graph.model.get_weights()

    def fit():
        graph.model.fit(graph.x, graph.y, batch_size=16, epochs=2, callbacks=[compress], verbose=0)

    if graph.unknown:
        with pytest.raises(ValueError, match="allow_float_ops") as refused:
            fit()
        listing = r"would not all be rounded in the training: (.*?)\. (?:The file|With them)"
        (named,) = re.findall(listing, str(refused.value))
        assert [part.split(" (")[0] for part in named.split("; ")] == graph.unknown
        after = graph.model.get_weights()
        assert all((x == y).all() for x, y in zip(before, after, strict=True))
        return
    fit()
    report = compress.report.export
    assert report.error is None
    assert kc.inspect_tflite(path).all_integer
    assert max(report.largest_steps.values()) <= LARGEST_STEPS, report
