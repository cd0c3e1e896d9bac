"""The `graph_rewriter` block of a `pipeline.config`: what is read of it, and what is refused."""

import logging
import re
import subprocess
import sys

import pytest

from keras_compress import Quantization

# The shape of a config of the Object Detection API, with what could mislead a reader: the block's
# name in a string and in a comment, brackets of every kind, an extension, single quotes.
PIPELINE = """\
# graph_rewriter { quantization { delay: 1 } }
model {
  ssd {
    num_classes: 90
    image_resizer { fixed_shape_resizer { height: 300 width: 300 } }
    feature_extractor {
      type: "ssd_mobilenet_v2"
      depth_multiplier: 1.0
      conv_hyperparams { activation: RELU_6 regularizer { l2_regularizer { weight: 4e-05 } } }
    }
    anchor_generator { ssd_anchor_generator { aspect_ratios: [1.0, 2.0, 0.5] } }
    [object_detection.protos.extra] < name: "graph_rewriter { }" >
  }
}
train_config {
  batch_size: 24
  fine_tune_checkpoint: 'graph_rewriter {/model.ckpt'
  num_steps: 50000
}
graph_rewriter {
  quantization {
    delay: 48000  # then integers
    weight_bits: 8
    activation_bits: 8
  }
}
"""


def block(inside):
    return f"graph_rewriter {{ quantization {{ {inside} }} }}"


def read(text_or_path):
    return Quantization.from_graph_rewriter(text_or_path)


def test_the_block_is_found_in_the_whole_file(tmp_path):
    expected = Quantization(delay=48000, weight_bits=8, activation_bits=8)
    assert read(PIPELINE) == expected
    path = tmp_path / "pipeline.config"
    path.write_text(PIPELINE)
    assert read(path) == expected
    assert read(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(block(""), Quantization(delay=500000), id="the-defaults-of-the-api"),
        pytest.param(block("delay: 0"), Quantization(delay=0), id="from-the-first-update"),
        pytest.param(block("weight_bits: 4"), Quantization(delay=500000, weight_bits=4), id="4"),
        pytest.param(
            "graph_rewriter: < quantization: { delay: 7; symmetric: false } >",
            Quantization(delay=7),
            id="another-way-to-write-it",
        ),
    ],
)
def test_what_is_left_out_has_its_default(text, expected):
    assert read(text) == expected


REFUSED = [
    pytest.param("model { }", "must have one `graph_rewriter", "0 in a text of 9", id="no-block"),
    pytest.param(block("") * 2, "must have one `graph_rewriter", "2 in a text of", id="two-blocks"),
    pytest.param("model { graph_rewriter { } }", "must have one", "0 in a text", id="not-at-top"),
    pytest.param(
        "graph_rewriter { }", "must have `quantization { ... }`", "18 characters", id="empty"
    ),
    pytest.param(
        block("weigth_bits: 4"), "with only delay, weight_bits,", '"weigth_bits"', id="misspelt"
    ),
    pytest.param(block("delay: 1.5"), "protobuf's text format", "integer: 1.5", id="no-integer"),
    pytest.param(block("weight_bits: 2"), "must be 4 or 8", "weight_bits=2", id="2-bits"),
    pytest.param(block("activation_bits: 16"), "must be 8", "activation_bits=16", id="16-bits"),
    pytest.param(block("delay: -1"), "an int >= 0", "delay=-1", id="negative"),
    pytest.param(PIPELINE[:-3], "text format", "a bracket is not closed", id="cut-off"),
    pytest.param("} {", "text format", "'}' closes nothing", id="upside-down"),
]


@pytest.mark.parametrize(("text", "rule", "received"), REFUSED)
def test_what_it_does_not_support_is_said(text, rule, received):
    with pytest.raises(ValueError, match=f"{re.escape(rule)}.*Received: .*{re.escape(received)}"):
        read(text)


def test_a_file_is_named_by_its_path(tmp_path):
    path = tmp_path / "plain.config"
    path.write_text("train_config { }\n")
    with pytest.raises(ValueError, match=re.escape(repr(str(path)))):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.config"):
        read("nowhere.config")
    with pytest.raises(TypeError, match=r"the path of one\. Received: text_or_path=7"):
        read(7)


def test_symmetric_activations_are_said_not_to_be(caplog):
    with caplog.at_level(logging.WARNING, logger="keras_compress"):
        assert read(block("delay: 5 symmetric: true")) == Quantization(delay=5)
    assert "`symmetric: true` is not supported and not needed" in caplog.text


def test_reading_one_loads_no_framework():
    code = (
        "import sys, keras_compress as kc\n"
        f"kc.Quantization.from_graph_rewriter({block('')!r})\n"
        "print(sorted({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
