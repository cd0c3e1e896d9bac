"""Every option of toco and of tflite_convert, and what becomes of it in `keras-compress convert`.

From this table the command takes their spellings and what it says of each, and the page
`docs/reference/tflite_convert.md` is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

OPTION, NOTED, REFUSED = "option", "noted", "refused"


@dataclasses.dataclass(frozen=True)
class OldOption:
    """One option of theirs.

    Attributes:
        name: as they spell it.
        commands: which of them have it: "both", "toco", "tflite_convert", or the last one's "later"
            versions, after TF 1.13.
        becomes: `OPTION`: it is the option `means` of this command. `NOTED`: it cannot change what
            the file computes, is accepted, and `means` is said in one line. `REFUSED`: it would,
            and cannot be done; the error says `means`.
        means: so what is done, or what to use.
        value: what is given to it, as an example; None for a truth value, which may be left out.
        harmless: of a refused one, the values that ask for nothing: they are noted, and `anyhow`
            is said.
        in_floats: of a refused one, that it asks for nothing where the file is one of floats.
    """

    name: str
    commands: str
    becomes: str
    means: str
    value: str | None = None
    harmless: tuple[str, ...] = ()
    anyhow: str = "so it is anyhow."
    in_floats: bool = False

    @property
    def parameter(self) -> str:
        """The name of its value in Python."""
        return self.name.lstrip("-").replace("-", "_")

    def becomes_of(self, value: str, floats: bool = False) -> str:
        """What becomes of it with this value; `floats`: in a command that makes a float file."""
        harmless = value.lower() in self.harmless or (self.in_floats and floats)
        return NOTED if self.becomes == REFUSED and harmless else self.becomes

    def line(self, value: str, floats: bool = False) -> str:
        """What is said of it when it stands in a command."""
        given = self.name if self.value is None and value == "true" else f"{self.name}={value}"
        differs = self.becomes == REFUSED and self.becomes_of(value, floats) == NOTED
        return f"{given}: {self.anyhow if differs else self.means}"


_GRAPH = "nothing is drawn; `keras-compress inspect` shows the file."
_LOG = "says how much to log; `--debug` shows all."
_NEW = "the converter is that of the installed TensorFlow."
_FALSE = ("false",)
_NO_FLEX = "LiteRT alone has no ops of TensorFlow's; leave it out, or replace the layers with them."
_ALLOWED = "no op of TensorFlow's own is put into the file; where one is needed, that is an error."

OPTIONS = (
    # What is converted, and to where.
    OldOption("--graph_def_file", "tflite_convert", OPTION, "MODEL", "net.pb"),
    OldOption("--input_file", "toco", OPTION, "MODEL", "net.pb"),
    OldOption("--saved_model_dir", "tflite_convert", OPTION, "MODEL", "net"),
    OldOption("--savedmodel_directory", "toco", OPTION, "MODEL", "net"),
    OldOption("--keras_model_file", "tflite_convert", OPTION, "MODEL", "net.h5"),
    OldOption("--output_file", "both", OPTION, "OUT", "net.tflite"),
    OldOption(
        "--input_format", "toco", REFUSED,
        "only TensorFlow's graphs are read; a .tflite file is converted already.",
        "TFLITE", ("tensorflow_graphdef",),
    ),
    OldOption(
        "--output_format", "both", REFUSED,
        "only TFLite files are written; `keras-compress inspect` shows what is in one.",
        "GRAPHVIZ_DOT", ("tflite",),
    ),
    OldOption("--saved_model_tag_set", "tflite_convert", OPTION, "--saved-model-tag-set", "serve"),
    OldOption("--savedmodel_tagset", "toco", OPTION, "--saved-model-tag-set", "serve"),
    OldOption(
        "--saved_model_signature_key", "tflite_convert", OPTION, "--saved-model-signature-key",
        "serving_default",
    ),
    # The ends of a graph.
    OldOption("--input_arrays", "both", OPTION, "--input-arrays", "image"),
    OldOption("--input_array", "toco", OPTION, "--input-arrays", "image"),
    OldOption("--input_shapes", "both", OPTION, "--input-shapes", "1,4"),
    OldOption("--input_shape", "toco", OPTION, "--input-shapes", "1,4"),
    OldOption("--output_arrays", "both", OPTION, "--output-arrays", "relu"),
    OldOption("--output_array", "toco", OPTION, "--output-arrays", "relu"),
    OldOption("--batch_size", "toco", OPTION, "--batch-size", "2"),
    OldOption(
        "--input_data_type", "toco", REFUSED,
        "the types of a graph's inputs are the graph's own; leave it out.", "INT32", ("float",),
    ),
    OldOption(
        "--input_data_types", "toco", REFUSED,
        "the types of a graph's inputs are the graph's own; leave it out.", "INT32", ("float",),
    ),
    OldOption(
        "--variable_batch", "toco", REFUSED,
        "a file has a fixed batch; give it with --batch_size.", None, _FALSE,
    ),
    OldOption(
        "--rnn_states", "toco", REFUSED,
        "states between two runs are not made of a graph; leave that part out of it.",
        "{size:2}",
    ),
    OldOption(
        "--allow_nonexistent_arrays", "toco", REFUSED,
        "the names of inputs and outputs must be in the graph.", None, _FALSE,
    ),
    OldOption(
        "--allow_nonascii_arrays", "toco", NOTED, "names may have any characters anyhow."
    ),
    OldOption(
        "--arrays_extra_info_file", "toco", REFUSED,
        "ranges come from the graph; use --default_ranges_min and --default_ranges_max, or "
        "--representative-dataset.",
        "extra.pb",
    ),
    OldOption(
        "--model_flags_file", "toco", REFUSED,
        "write what is in it as options, --input_arrays and those after it.", "flags.pb",
    ),
    OldOption(
        "--model_checks", "toco", NOTED,
        "ops are not counted; `keras-compress inspect` shows how many there are.", "{op:Conv}",
    ),
    # Types and ranges.
    OldOption("--inference_type", "both", OPTION, "--inference-type", "FLOAT"),
    OldOption("--inference_input_type", "both", OPTION, "--inference-input-type", "FLOAT"),
    OldOption(
        "--inference_output_type", "later", OPTION, "--inference-output-type", "FLOAT"
    ),
    OldOption("--input_type", "toco", OPTION, "--inference-input-type", "FLOAT"),
    OldOption("--input_types", "toco", OPTION, "--inference-input-type", "FLOAT"),
    OldOption("--mean_values", "both", OPTION, "--mean", "0"),
    OldOption("--mean_value", "toco", OPTION, "--mean", "0"),
    OldOption("--std_dev_values", "tflite_convert", OPTION, "--std", "1"),
    OldOption("--std_values", "toco", OPTION, "--std", "1"),
    OldOption("--std_value", "toco", OPTION, "--std", "1"),
    OldOption("--default_ranges_min", "both", OPTION, "--default-ranges-min", "0"),
    OldOption("--default_ranges_max", "both", OPTION, "--default-ranges-max", "6"),
    OldOption(
        "--default_int16_ranges_min", "toco", REFUSED,
        "files of 16 bits are calibrated: use --mode int16x8 and --representative-dataset.", "0",
    ),
    OldOption(
        "--default_int16_ranges_max", "toco", REFUSED,
        "files of 16 bits are calibrated: use --mode int16x8 and --representative-dataset.", "6",
    ),
    OldOption("--post_training_quantize", "both", OPTION, "--mode dynamic"),
    OldOption("--quantize_weights", "both", OPTION, "--mode dynamic"),
    OldOption("--quantize_to_float16", "later", OPTION, "--mode float16"),
    OldOption(
        "--accumulation_type", "toco", REFUSED,
        "in a float16 file LiteRT adds in float32; leave it out.", "float16", ("float32",),
    ),
    OldOption(
        "--allow_bfloat16", "toco", REFUSED, "LiteRT has no such kernels; use --mode float16.",
        None, _FALSE,
    ),
    # What was done to a graph.
    OldOption(
        "--change_concat_input_ranges", "both", REFUSED,
        "the ranges stay those that the graph was trained with; leave it out, or give false.",
        None, _FALSE,
    ),
    OldOption(
        "--reorder_across_fake_quant", "both", NOTED,
        "no fake-quant op is moved; how far the file is from the graph stands in the report.",
    ),
    OldOption(
        "--drop_fake_quant", "toco", REFUSED,
        "a graph's own ranges become the file's; for others use a graph without fake-quant ops.",
        None, _FALSE, "in a float file nothing is rounded anyhow.", True,
    ),
    OldOption(
        "--drop_control_dependency", "both", NOTED,
        "what only waits for something waits for nothing in a file anyhow.",
    ),
    OldOption(
        "--propagate_fake_quant_num_bits", "toco", REFUSED,
        "a file has the bits that its graph says; leave it out.", None, _FALSE,
    ),
    OldOption(
        "--allow_nudging_weights_to_use_fast_gemm_kernel", "toco", NOTED,
        "no weight is nudged; LiteRT's kernels take them as they are.",
    ),
    OldOption(
        "--debug_disable_recurrent_cell_fusion", "toco", REFUSED,
        "TensorFlow decides which cells become one op; leave it out.", None, _FALSE,
    ),
    OldOption(
        "--split_tflite_lstm_inputs", "toco", REFUSED,
        "an LSTM op has the inputs that LiteRT asks for; leave it out.", None, ("true",),
    ),
    OldOption(
        "--unfold_batchmatmul", "toco", NOTED, "TensorFlow decides; the numbers are the same.",
    ),
    OldOption(
        "--dedupe_array_min_size_bytes", "toco", NOTED,
        "equal constants are stored once, whatever their size.", "64",
    ),
    OldOption(
        "--allow_dynamic_tensors", "toco", NOTED, "all sizes in a file are fixed anyhow."
    ),
    # Which ops may be in a file.
    OldOption("--allow_custom_ops", "both", OPTION, "--allow-custom-ops"),
    OldOption(
        "--custom_opdefs", "later", REFUSED,
        "the ops must be known to TensorFlow; TFLite_Detection_PostProcess is.", "name: 'X'",
    ),
    OldOption(
        "--target_ops", "tflite_convert", REFUSED,
        "integers come of --mode int8 and --representative-dataset; of others, " + _NO_FLEX,
        "SELECT_TF_OPS",
        ("tflite_builtins", "tflite_builtins,select_tf_ops", "select_tf_ops,tflite_builtins"),
        _ALLOWED,
    ),
    OldOption("--enable_select_tf_ops", "toco", NOTED, _ALLOWED),
    OldOption("--force_select_tf_ops", "toco", REFUSED, _NO_FLEX, None, _FALSE),
    OldOption("--experimental_select_user_tf_ops", "later", NOTED, _ALLOWED, "MyOp"),
    OldOption(
        "--converter_mode", "tflite_convert", REFUSED, _NO_FLEX, "TOCO_FLEX_ALL",
        ("default", "toco_flex"), _ALLOWED,
    ),
    # Which converter, and what it tells.
    OldOption("--enable_v1_converter", "later", NOTED, "graphs are read anyhow."),
    OldOption("--experimental_new_converter", "later", NOTED, _NEW),
    OldOption("--experimental_enable_mlir_converter", "later", NOTED, _NEW),
    OldOption("--experimental_new_quantizer", "later", NOTED, _NEW),
    OldOption("--dump_graphviz", "toco", NOTED, _GRAPH, "graphs"),
    OldOption("--dump_graphviz_dir", "tflite_convert", NOTED, _GRAPH, "graphs"),
    OldOption("--dump_graphviz_video", "both", NOTED, _GRAPH),
    OldOption("--conversion_summary_dir", "later", NOTED, _GRAPH, "summary"),
    OldOption("--v", "both", NOTED, _LOG, "1"),
    OldOption("--verbosity", "both", NOTED, _LOG, "1"),
    OldOption("--logtostderr", "both", NOTED, _LOG),
    OldOption("--alsologtostderr", "both", NOTED, _LOG),
    OldOption("--stderrthreshold", "both", NOTED, _LOG, "info"),
)  # fmt: skip


def spellings(option: str) -> list[str]:
    """How they spell an option of this command, without its own spelling."""
    found = (each.name.replace("_", "-") for each in OPTIONS if each.means == option)
    return [name for name in found if name != option]


def said_of(given: dict[str, str | None]) -> Iterator[tuple[OldOption, str]]:
    """The options that have a line said of them, with their values, in the table's order."""
    for option in OPTIONS:
        value = None if option.becomes == OPTION else given.get(option.parameter)
        if value is not None:
            yield option, value


BOOLEANS = frozenset(option.parameter for option in OPTIONS if option.value is None)


def with_values(arguments: list[str]) -> list[str]:
    """A command's arguments with their truth values in one form.

    They took `--x`, `--x=true` and `--x true` alike: whether the word after an option is its value
    only the table tells. And a name that was cut off.
    """
    own = {each.parameter for each in OPTIONS if each.becomes == OPTION}
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, given, value = argument.partition("=")
        name = _whole(name)
        argument = f"{name}{given}{value}"
        parameter = name.removeprefix("--").replace("-", "_").lower()
        if not name.startswith("--") or parameter not in BOOLEANS:
            found.append(argument)
            continue
        if not given and rest and rest[0].lower() in _TRUTH:
            value = rest.pop(0)
        truth = _TRUTH.get(value.lower() or "true", value)
        if parameter not in own:
            found.append(f"{name}={truth}")
        elif truth == "true":  # an option of this command, which has no value
            found.append(name)
        elif truth != "false":
            found.append(argument)  # which is then refused
    return found


def _whole(name: str) -> str:
    """tflite_convert took the beginning of a name too, where it is that of one option."""
    written = name.replace("-", "_").lower()
    names = [each.name for each in OPTIONS]
    if not name.startswith("--") or written in (each.replace("-", "_") for each in names):
        return name
    found = [
        option.name
        for option in OPTIONS
        if option.commands != "toco" and option.name.replace("-", "_").startswith(written)
    ]
    return found[0] if len(found) == 1 and len(written) > len("__in") else name


_TRUTH = {"true": "true", "false": "false", "1": "true", "0": "false"}
