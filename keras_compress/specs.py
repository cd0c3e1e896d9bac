"""What to prune, what to quantize, what to write: validated once, to and from a plain dict.

Steps are those of `keras_compress.schedules`: an int counts updates, a float in [0, 1] is that
fraction of the fit that begins, until `resolve` has turned it into an int.
"""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from typing import Any, Self

from keras_compress import _checks
from keras_compress._checks import Layers
from keras_compress.schedules import Schedule, as_schedule, resolve_step, schedule_from_config

END_TYPES = {
    "float32": ("float32",),
    "float16": ("float32",),
    "dynamic": ("float32",),
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16", "float32"),
}
"""Mode of a file -> the types that its inputs and outputs can have, the usual one first."""

INTEGER_MODES = ("int8", "int16x8")

_DATA_FIELDS = ("representative_dataset", "verify_data")


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Which kernels to prune, how far, and in what pattern.

    The smallest weights of each kernel are zeroed, as many as its schedule says at that step, and
    stay zero until the mask is computed anew.

    Args:
        schedule: `PolynomialDecay` or `ConstantSparsity`, tfmot's own two included. None only if
            `layers` is a dict, which then names all that is pruned.
        layers: None for every kernel that can be pruned; names, where `"backbone/conv1"` is a layer
            of a nested model; a callable `layer -> bool`; or a dict of name -> schedule, where the
            layers it does not name get `schedule`.
        block_size: (rows, columns) zeroed together, in rank-2 kernels.
        block_pooling_type: "AVG" or "MAX": what of a block's magnitudes is compared.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights along the input axis, as
            (2, 4); every target must be m / n. Not together with a `block_size`.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value outside its range, or fields that contradict each other.
    """

    schedule: Schedule | None
    _: dataclasses.KW_ONLY
    layers: Layers | dict[str, Schedule] = None
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        owner = "Pruning"
        layers: Layers | dict[str, Schedule]
        if isinstance(self.layers, Mapping):
            names = _checks.check_names(owner, self.layers)
            layers = {
                name: as_schedule(self.layers[name], owner, f"layers[{name!r}]") for name in names
            }
        else:
            layers = _checks.check_layers(owner, self.layers, also="or a dict of name -> schedule")
        _set(self, "layers", layers)
        if self.schedule is not None:
            _set(self, "schedule", as_schedule(self.schedule, owner))
        elif not isinstance(layers, dict):
            rule = "a schedule unless `layers` is a dict of name -> schedule"
            raise _checks.type_error(owner, "schedule", None, rule)
        block_size = _checks.check_int_pair(owner, "block_size", self.block_size, minimum=1)
        _set(self, "block_size", block_size)
        _checks.check_choice(owner, "block_pooling_type", self.block_pooling_type, ("AVG", "MAX"))
        if self.sparsity_m_by_n is not None:
            self._check_m_by_n()

    def _check_m_by_n(self) -> None:
        name = "sparsity_m_by_n"
        m, n = _checks.check_int_pair("Pruning", name, self.sparsity_m_by_n, minimum=1)
        if not m < n:
            raise _checks.value_error("Pruning", name, (m, n), "(m, n) with 0 < m < n")
        if self.block_size != (1, 1):
            raise _checks.value_error(
                "Pruning", "block_size", self.block_size, f"(1, 1) with {name}={(m, n)}"
            )
        for schedule in self.schedules:
            if abs(schedule.target - m / n) > 1e-6:
                target = "final" if schedule.kind == "PolynomialDecay" else "target"
                raise _checks.value_error(
                    "Pruning", f"{target}_sparsity", schedule.target, f"{m}/{n} with {name}={m, n}"
                )
        _set(self, name, (m, n))

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Every schedule in it: the general one first, then those of named layers."""
        own = tuple(self.layers.values()) if isinstance(self.layers, dict) else ()
        return own if self.schedule is None else (self.schedule, *own)

    @property
    def has_fractions(self) -> bool:
        """Whether a step is still a fraction of a fit."""
        return any(schedule.has_fractions for schedule in self.schedules)

    @property
    def last_step(self) -> int:
        """The step by which every target is reached. ValueError while one is a fraction."""
        return max(schedule.last_step for schedule in self.schedules)

    def resolve(self, start: int, updates: int) -> Self:
        """The same with ints for steps, in a fit of `updates` updates after the first `start`.

        Raises:
            ValueError: if the resolved steps of a schedule are out of order.
        """
        if not self.has_fractions:
            return self
        schedule, layers = self.schedule, self.layers
        if schedule is not None:
            schedule = schedule.resolve(start, updates)
        if isinstance(layers, dict):
            layers = {name: each.resolve(start, updates) for name, each in layers.items()}
        return dataclasses.replace(self, schedule=schedule, layers=layers)

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back equal.

        Raises:
            ValueError: if `layers` is a callable.
        """
        layers: Any
        if isinstance(self.layers, dict):
            layers = {name: each.get_config() for name, each in self.layers.items()}
        else:
            layers = _writable_layers("Pruning", self.layers)
        return {
            "schedule": None if self.schedule is None else self.schedule.get_config(),
            "layers": layers,
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": None if self.sparsity_m_by_n is None else list(self.sparsity_m_by_n),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        arguments = _read_config(cls, config)
        if arguments["schedule"] is not None:
            arguments["schedule"] = schedule_from_config(arguments["schedule"])
        if isinstance(arguments["layers"], dict):
            arguments["layers"] = {
                name: schedule_from_config(each) for name, each in arguments["layers"].items()
            }
        return cls(**arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What to round to integers in training, and from which step on.

    The first `delay` updates are plain float training. Ranges are watched during the last
    `calibration_steps` of them, nothing being rounded yet. From then on the forward pass rounds as
    the integer file will.

    Args:
        delay: updates before rounding starts; int >= 0 or fraction of the fit. 0: from the first.
        weight_bits: 8 or 4.
        activation_bits: 8.
        calibration_steps: updates before the delay in which ranges are watched, int >= 0; all there
            are when there are fewer. 0: no watching.
        freeze_step: updates 1..freeze_step move ranges and batch-norm statistics, later ones do
            not; int or fraction of the fit, not below `delay`. None: never frozen.
        layers: None for every layer that can be quantized; names, where `"backbone/conv1"` is a
            layer of a nested model; or a callable `layer -> bool`. The others stay in float.

    Raises:
        TypeError: for a value of the wrong type, a bool included.
        ValueError: for a value outside its range, or a `freeze_step` below the delay.
    """

    delay: int | float = 0
    weight_bits: int = 8
    activation_bits: int = 8
    calibration_steps: int = 200
    freeze_step: int | float | None = None
    layers: Layers = None

    def __post_init__(self) -> None:
        owner = "Quantization"
        _set(self, "delay", _checks.check_step(owner, "delay", self.delay))
        for name, choices in (("weight_bits", (4, 8)), ("activation_bits", (8,))):
            bits = _checks.check_int_choice(owner, name, getattr(self, name), choices)
            _set(self, name, bits)
        steps = _checks.check_int(owner, "calibration_steps", self.calibration_steps, minimum=0)
        _set(self, "calibration_steps", steps)
        if self.freeze_step is not None:
            _set(self, "freeze_step", _checks.check_step(owner, "freeze_step", self.freeze_step))
            same_kind = isinstance(self.delay, float) == isinstance(self.freeze_step, float)
            if same_kind and self.freeze_step < self.delay:
                raise _freeze_error(self, self.delay, self.freeze_step)
        _set(self, "layers", _checks.check_layers(owner, self.layers))

    @property
    def has_fractions(self) -> bool:
        """Whether a step is still a fraction of a fit."""
        return isinstance(self.delay, float) or isinstance(self.freeze_step, float)

    @property
    def last_step(self) -> int:
        """The last of `delay` and `freeze_step`. ValueError while one of them is a fraction."""
        delay = _checks.check_resolved("Quantization", "delay", self.delay)
        if self.freeze_step is None:
            return delay
        return _checks.check_resolved("Quantization", "freeze_step", self.freeze_step)

    def resolve(self, start: int, updates: int) -> Self:
        """The same with ints for steps, in a fit of `updates` updates after the first `start`.

        Raises:
            ValueError: if the resolved `freeze_step` is below the delay.
        """
        if not self.has_fractions:
            return self
        delay = resolve_step(self.delay, start, updates)
        freeze_step = self.freeze_step
        if freeze_step is not None:
            freeze_step = resolve_step(freeze_step, start, updates)
            if freeze_step < delay:
                raise _freeze_error(self, delay, freeze_step)
        return dataclasses.replace(self, delay=delay, freeze_step=freeze_step)

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back equal.

        Raises:
            ValueError: if `layers` is a callable.
        """
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**config, "layers": _writable_layers("Quantization", self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        return cls(**_read_config(cls, config))


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
        inference_output_type: type of its outputs, likewise.
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
            whoever runs it then has to bring. Such a file is not verified, and cannot be
            calibrated.
        sparse: store only what is not zero, where LiteRT runs such a file (in the float modes); it
            is tried, and refused where not.
        c_array: write a pair of C files beside it, for firmware: `.h` and `.cc` in the place of
            ".tflite".
        batch_size: the file's fixed batch size, int >= 1.
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
    representative_dataset: Any = dataclasses.field(default=None, compare=False, repr=False)
    verify_data: Any = dataclasses.field(default=None, compare=False, repr=False)
    quantized_input_stats: tuple[float, float] | dict[str, tuple[float, float]] | str | None = (
        dataclasses.field(default=None, hash=False)  # a dict has no hash
    )
    default_ranges_stats: tuple[float, float] | None = None
    allow_float_ops: bool = False
    allow_custom_ops: bool = False
    sparse: bool = False
    c_array: bool = False
    batch_size: int = 1
    timeout: int | float = 600

    def __post_init__(self) -> None:
        owner = "Export"
        _set(self, "path", _checks.check_path(owner, "path", self.path, ".tflite"))
        _checks.check_choice(owner, "mode", self.mode, END_TYPES)
        for name in ("inference_input_type", "inference_output_type"):
            value = getattr(self, name)
            if value is not None:
                choices, where = END_TYPES[self.mode], f" in mode {self.mode!r}"
                _set(self, name, _checks.check_type(owner, name, value, choices, where))
        for name in _DATA_FIELDS:
            _set(self, name, _checks.check_data(owner, name, getattr(self, name)))
        _set(self, "quantized_input_stats", _check_stats(owner, self))
        _set(self, "default_ranges_stats", _check_default_range(owner, self))
        for name in ("allow_float_ops", "allow_custom_ops", "sparse", "c_array"):
            _checks.check_bool(owner, name, getattr(self, name))
        batch_size = _checks.check_int(owner, "batch_size", self.batch_size, minimum=1)
        _set(self, "batch_size", batch_size)
        seconds = _checks.check_positive(owner, "timeout", self.timeout, what="seconds")
        _set(self, "timeout", seconds)

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
        return self.inference_output_type or END_TYPES[self.mode][0]

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
                # Asking for permissions tells root that all is well, on a read-only disk too.
                with tempfile.TemporaryFile(dir=folder):
                    return
            except OSError as error:
                rule = f"in a folder that can be written to ({error.strerror})"
        raise _checks.value_error("Export", "path", self.path, rule)

    def check_data_files(self) -> None:
        """Raise now if a `.npz` file named as data is not there.

        Raises:
            ValueError: naming the field.
        """
        for name in _DATA_FIELDS:
            value = getattr(self, name)
            if isinstance(value, str) and not os.path.isfile(value):
                raise _checks.value_error("Export", name, value, "the path of a file that exists")

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values, without data, that `from_config` reads back equal."""
        names = [field.name for field in dataclasses.fields(self)]
        config = {name: getattr(self, name) for name in names if name not in _DATA_FIELDS}
        for name in ("quantized_input_stats", "default_ranges_stats"):
            value = config[name]
            if isinstance(value, dict):
                config[name] = {key: list(pair) for key, pair in value.items()}
            elif isinstance(value, tuple):
                config[name] = list(value)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described; `dataclasses.replace` adds data to it.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        return cls(**_read_config(cls, config, without=_DATA_FIELDS))


def _set(spec: Any, name: str, value: Any) -> None:
    """Store a checked value in a frozen dataclass that is being made."""
    object.__setattr__(spec, name, value)


def _read_config(cls: Any, config: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls) if field.name not in without]
    return _checks.check_keys(cls.__name__, config, names, names)


def _writable_layers(owner: str, layers: Any) -> list[str] | None:
    if callable(layers):
        rule = "None or names to be written down: a callable has no plain form"
        raise _checks.value_error(owner, "layers", layers, rule)
    return None if layers is None else list(layers)


def _freeze_error(spec: Quantization, delay: float, freeze_step: float) -> ValueError:
    first = ("freeze_step", spec.freeze_step, freeze_step)
    second = ("delay", spec.delay, delay)
    return _checks.order_error("Quantization", "at least `delay`", first, second)


def _check_stats(owner: str, export: Export) -> Any:
    """The input statistics of an export, with tuples of floats in them."""
    name, value = "quantized_input_stats", export.quantized_input_stats
    if value is None:
        return None
    if export.mode != "int8":
        rule = f"None in mode {export.mode!r}: only integers of 8 bits have such statistics"
        raise _checks.value_error(owner, name, value, rule)
    if isinstance(value, str):
        return _checks.check_choice(owner, name, value, ("auto",))
    if isinstance(value, Mapping):
        return {str(key): _stats(owner, f"{name}[{key!r}]", each) for key, each in value.items()}
    return _stats(owner, name, value)


def _stats(owner: str, name: str, value: Any) -> tuple[float, float]:
    mean, std = _checks.check_pair(owner, name, value, "(mean, std)")
    if not (0 <= mean <= 255 and std > 0):
        rule = "(mean, std) with a mean in [0, 255] and a std above 0"
        raise _checks.value_error(owner, name, value, rule)
    return mean, std


def _check_default_range(owner: str, export: Export) -> tuple[float, float] | None:
    name, value = "default_ranges_stats", export.default_ranges_stats
    if value is None:
        return None
    if export.mode != "int8":
        raise _checks.value_error(owner, name, value, f"None in mode {export.mode!r}")
    low, high = _checks.check_pair(owner, name, value, "(min, max)")
    if not low <= 0 <= high or low == high:
        raise _checks.value_error(owner, name, value, "(min, max) with min <= 0 <= max, not both 0")
    return low, high
