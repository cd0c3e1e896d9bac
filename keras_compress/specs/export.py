"""`Export`: the file to write when training ends."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from keras_compress._shared import checks
from keras_compress._shared.files import check_writable
from keras_compress.specs.detection import DetectionPostProcess
from keras_compress.specs.fields import read_config, set_field

END_TYPES = {
    "float32": ("float32",),
    "float16": ("float32",),
    "dynamic": ("float32",),
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16", "float32"),
}
"""Mode of a file -> the types that its inputs and outputs can have, the usual one first."""

INTEGER_MODES = ("int8", "int16x8")

InputStats = tuple[float, float] | dict[str, tuple[float, float]] | str | None
"""(mean, std) of all inputs, those of each by its name, or "auto"."""

InputShape = tuple[int, ...] | dict[str, tuple[int, ...]] | None
"""The shape of the only input without the batch, or those of some by their names."""

_DATA_FIELDS = ("representative_dataset", "verify_data")


@dataclasses.dataclass(frozen=True)
class Export:
    """What to write when training ends.

    Data (`representative_dataset`, `verify_data`) is no part of equality, of the printed form or of
    the dict, and a deep copy shares it with the original.

    Args:
        path: where the file goes; ends in ".tflite". Stored as a string.
        mode: "int8" (integers throughout), "int16x8" (activations of 16 bits, weights of 8),
            "dynamic" (weights of 8 bits, activations float), "float16" (weights) or "float32".
        inference_input_type: type of the file's inputs, as a string or a dtype. None is int8 in
            mode "int8", where "uint8" and "float32" are possible too, int16 or "float32" in
            "int16x8", and float32 in the others.
        inference_output_type: type of its outputs, likewise; "float32" with a `postprocess`.
        representative_dataset: inputs to calibrate ranges with where training has none: array(s),
            `tf.data.Dataset`, the path of a `.npz` file, or a callable without arguments that
            returns an iterable. A generator object can be neither copied nor read twice: refused.
        verify_data: inputs to compare the finished file with the model on, in the same forms.
        quantized_input_stats: TF1's (mean, std) of the inputs, in mode "int8": `real = (q - mean) /
            std` for uint8 `q`, so that scale and zero point of the file's inputs are
            `keras_compress.ranges.quantization_of_stats(mean, std)`. For all inputs, as a dict for
            those named, or "auto": from the smallest and the largest number in the rows of
            `representative_dataset` that calibrate. None: the range that was watched or calibrated.
        default_ranges_stats: (min, max) of every tensor whose range nobody knows, in mode "int8".
            A guess, as the accuracy then is; the report names the tensors.
        allow_float_ops: write the file even if some of its ops stay in float.
        allow_custom_ops: write the file even if TFLite has no kernel for some of its ops, which
            whoever runs it then has to bring. Such a file is not verified, but where LiteRT has
            them all (those of audio features), and cannot be calibrated.
        sparse: store only what is not zero, where LiteRT runs such a file (in the float modes); it
            is tried, and refused where not.
        c_array: write a pair of C files beside it, for firmware: `.h` and `.cc` in the place of
            ".tflite".
        per_channel_dense: one scale for each unit of a Dense layer, where the weights are rounded
            after the training. False: one for all of it, as quantization-aware training has, and as
            TFLite Micro before autumn 2024, NNAPI and older NPUs ask for: they refuse the others,
            or compute them wrongly. Of no meaning in the modes "float32" and "float16".
        batch_size: the file's fixed batch size, int >= 1.
        input_shape: the shape in the file, without the batch, of inputs that the model leaves free,
            as `(None, None, 3)`: a dict of input name -> shape, or one shape for a single input. It
            has to fit what the model does fix. Everything done for the file (verification too) is
            done with it.
        postprocess: what turns the boxes and scores of a detector into detections, in the file: its
            outputs are then the four of that op, in float32. What the op is given is verified as
            every output is. None: the model's own outputs.
        rehearse: convert the network once before the first step of a `fit`, as it will be at its
            end, and let LiteRT run it, so that what cannot become a file is an error before the
            training and not a line in its report. It costs a conversion, seconds mostly, and is
            left out where a network of the same structure has been rehearsed in this process. Of
            no meaning to `export_tflite`.
        timeout: seconds that the conversion may take, above 0.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value outside its range, or fields that do not go together.
    """

    path: str
    _: dataclasses.KW_ONLY
    mode: str = "int8"
    inference_input_type: str | None = None
    inference_output_type: str | None = None
    representative_dataset: object = dataclasses.field(default=None, compare=False, repr=False)
    verify_data: object = dataclasses.field(default=None, compare=False, repr=False)
    # a dict has no hash
    quantized_input_stats: InputStats = dataclasses.field(default=None, hash=False)
    default_ranges_stats: tuple[float, float] | None = None
    allow_float_ops: bool = False
    allow_custom_ops: bool = False
    sparse: bool = False
    c_array: bool = False
    per_channel_dense: bool = True
    batch_size: int = 1
    input_shape: InputShape = dataclasses.field(default=None, hash=False)
    postprocess: DetectionPostProcess | None = None
    rehearse: bool = True
    timeout: int | float = 600

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            path: str | os.PathLike[str],
            *,
            mode: str = "int8",
            inference_input_type: object = None,
            inference_output_type: object = None,
            representative_dataset: object = None,
            verify_data: object = None,
            quantized_input_stats: InputStats = None,
            default_ranges_stats: Sequence[float] | None = None,
            allow_float_ops: bool = False,
            allow_custom_ops: bool = False,
            sparse: bool = False,
            c_array: bool = False,
            per_channel_dense: bool = True,
            batch_size: int = 1,
            input_shape: InputShape = None,
            postprocess: DetectionPostProcess | None = None,
            rehearse: bool = True,
            timeout: float = 600,
        ) -> None: ...

    def __post_init__(self) -> None:
        owner = "Export"
        set_field(self, "path", checks.check_path(owner, "path", self.path, ".tflite"))
        checks.check_choice(owner, "mode", self.mode, END_TYPES)
        for name in ("inference_input_type", "inference_output_type"):
            value = getattr(self, name)
            if value is not None:
                choices, where = END_TYPES[self.mode], f" in mode {self.mode!r}"
                set_field(self, name, checks.check_type(owner, name, value, choices, where))
        for name in _DATA_FIELDS:
            set_field(self, name, checks.check_data(owner, name, getattr(self, name)))
        set_field(self, "quantized_input_stats", _check_stats(owner, self))
        set_field(self, "default_ranges_stats", _check_default_range(owner, self))
        for name in (
            "allow_float_ops", "allow_custom_ops", "sparse", "c_array", "per_channel_dense",
            "rehearse",
        ):  # fmt: skip
            checks.check_bool(owner, name, getattr(self, name))
        batch_size = checks.check_int(owner, "batch_size", self.batch_size, minimum=1)
        set_field(self, "batch_size", batch_size)
        set_field(self, "input_shape", _check_shapes(owner, self.input_shape))
        _check_postprocess(owner, self)
        seconds = checks.check_positive(owner, "timeout", self.timeout, what="seconds")
        set_field(self, "timeout", seconds)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same object: it cannot change, and its data is neither ours to copy nor small."""
        return self

    @property
    def input_type(self) -> str:
        """The type of the file's inputs, the mode's default filled in."""
        return self.inference_input_type or END_TYPES[self.mode][0]

    @property
    def output_type(self) -> str:
        """The type of the file's outputs, the mode's default filled in."""
        usual = END_TYPES[self.mode][0] if self.postprocess is None else "float32"
        return self.inference_output_type or usual

    def check_folder(self) -> None:
        """Raise now what would otherwise fail after the training: can a file be written at `path`?

        Nothing is left behind, and a file that stands at `path` is not touched.

        Raises:
            ValueError: if `path` is a folder, or its own folder is missing, a file or not writable.
        """
        folder = os.path.dirname(os.path.abspath(self.path))
        base = self.path.removesuffix(".tflite")
        beside = [f"{base}.h", f"{base}.cc"] if self.c_array else []
        if os.path.isdir(self.path):
            rule = "the path of a file, and a folder has this name"
        elif folders := [path for path in beside if os.path.isdir(path)]:
            rule = f"the path of a file, and a folder has the name {folders[0]!r}"
        elif not os.path.exists(folder):
            rule = "in a folder that exists"
        elif not os.path.isdir(folder):
            rule = "in a folder, and what should be one is a file"
        else:
            try:
                check_writable(folder)
                return
            except OSError as error:
                rule = f"in a folder that can be written to ({error.strerror})"
        raise checks.value_error("Export", "path", self.path, rule)

    def check_data_files(self) -> None:
        """Raise now if a `.npz` file named as data is not there.

        Raises:
            ValueError: naming the field.
        """
        for name in _DATA_FIELDS:
            value = getattr(self, name)
            if isinstance(value, str) and not os.path.isfile(value):
                raise checks.value_error("Export", name, value, "the path of a file that exists")

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values, without data, that `from_config` reads back equal."""
        names = [field.name for field in dataclasses.fields(self)]
        config = {name: getattr(self, name) for name in names if name not in _DATA_FIELDS}
        for name in ("quantized_input_stats", "default_ranges_stats", "input_shape"):
            value = config[name]
            if isinstance(value, dict):
                config[name] = {key: list(pair) for key, pair in value.items()}
            elif isinstance(value, tuple):
                config[name] = list(value)
        if self.postprocess is not None:
            config["postprocess"] = self.postprocess.get_config()
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described; `dataclasses.replace` adds data to it.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        arguments = read_config(cls, config, without=_DATA_FIELDS)
        if arguments["postprocess"] is not None:
            arguments["postprocess"] = DetectionPostProcess.from_config(arguments["postprocess"])
        return cls(**arguments)


def _check_stats(owner: str, export: Export) -> InputStats:
    """The input statistics of an export, with tuples of floats in them."""
    name, value = "quantized_input_stats", export.quantized_input_stats
    if value is None:
        return None
    if export.mode != "int8":
        rule = f"None in mode {export.mode!r}: only integers of 8 bits have such statistics"
        raise checks.value_error(owner, name, value, rule)
    if isinstance(value, str):
        return checks.check_choice(owner, name, value, ("auto",))
    if isinstance(value, Mapping):
        return {str(key): _stats(owner, f"{name}[{key!r}]", each) for key, each in value.items()}
    return _stats(owner, name, value)


def _stats(owner: str, name: str, value: object) -> tuple[float, float]:
    mean, std = checks.check_pair(owner, name, value, "(mean, std)")
    if not (0 <= mean <= 255 and std > 0):
        rule = "(mean, std) with a mean in [0, 255] and a std above 0"
        raise checks.value_error(owner, name, value, rule)
    return mean, std


def _check_postprocess(owner: str, export: Export) -> None:
    """Refuse what does not go with the op that makes detections."""
    value = export.postprocess
    if value is None:
        return
    if not isinstance(value, DetectionPostProcess):
        raise checks.type_error(owner, "postprocess", value, "a DetectionPostProcess or None")
    if export.batch_size != 1:
        rule = "1 with `postprocess`, whose op takes one image at a time"
        raise checks.value_error(owner, "batch_size", export.batch_size, rule)
    if export.inference_output_type not in (None, "float32"):
        rule = "'float32' with `postprocess`, whose op gives real numbers"
        name = "inference_output_type"
        raise checks.value_error(owner, name, export.inference_output_type, rule)


def _check_shapes(owner: str, value: object) -> InputShape:
    """The shapes of inputs with tuples of plain ints in them."""
    name = "input_shape"
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(key): _shape(owner, f"{name}[{key!r}]", each) for key, each in value.items()}
    return _shape(owner, name, value)


def _shape(owner: str, name: str, value: object) -> tuple[int, ...]:
    rule = "a shape without the batch, ints >= 1"
    if not isinstance(value, list | tuple) or not all(map(checks.is_int, value)):
        also = "" if "[" in name else ", or a dict of input name -> shape"
        raise checks.type_error(owner, name, value, rule + also)
    if any(size < 1 for size in value):
        raise checks.value_error(owner, name, value, rule)
    return tuple(map(int, value))


def _check_default_range(owner: str, export: Export) -> tuple[float, float] | None:
    name, value = "default_ranges_stats", export.default_ranges_stats
    if value is None:
        return None
    if export.mode != "int8":
        raise checks.value_error(owner, name, value, f"None in mode {export.mode!r}")
    low, high = checks.check_pair(owner, name, value, "(min, max)")
    if not low <= 0 <= high or low == high:
        raise checks.value_error(owner, name, value, "(min, max) with min <= 0 <= max, not both 0")
    return low, high
