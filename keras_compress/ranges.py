"""Scale and zero point, in the three ways people write them; numbers only.

An integer `q` stands for the real number `scale * (q - zero_point)`. The same mapping is written
as a range `(minimum, maximum)`, the real numbers at the two ends of the integers, and for uint8
inputs as the `(mean, std)` of TF1: `real = (q - mean) / std`.
"""

import math

from keras_compress._shared import checks

# The integers of each type. A narrow range leaves out the lowest, as kernels do.
_INTEGERS = {"uint8": (0, 255), "int8": (-128, 127), "int4": (-8, 7)}


def quantization_of_range(
    minimum: float, maximum: float, dtype: str = "int8", *, narrow: bool = False
) -> tuple[float, int]:
    """(scale, zero_point) of the real range `minimum..maximum`, nudged so that 0.0 is an integer.

    The zero point is the integer nearest to where 0.0 falls, and at the end of the integers where
    0.0 lies outside the range (the range then moves, as TF's fake_quant moves it [1]). Halfway
    between two integers it is the upper one, which is what the TFLite converter writes: (-1, 1) in
    uint8 is (1 / 127.5, 128). TF's fake_quant kernel computes in float32, where such a tie can fall
    either way; given the nudged range (`range_of_quantization`) it agrees.

    Args:
        minimum: real number at the lower end.
        maximum: real number at the upper end, above `minimum`.
        dtype: "int8", "uint8" or "int4".
        narrow: leave out the lowest integer (-127..127 for int8).

    Raises:
        ValueError: if the range is empty or not finite, or the dtype unknown.

    References:
        [1] Jacob et al., "Quantization and Training of Neural Networks for Efficient
            Integer-Arithmetic-Only Inference", 2018, arXiv:1712.05877, section 3.1.
    """
    owner = "quantization_of_range"
    low, high = _integers(owner, dtype, narrow)
    if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum < maximum):
        raise ValueError(
            f"{owner}: `minimum` must be less than `maximum`, both finite. "
            f"Received: minimum={minimum!r}, maximum={maximum!r}"
        )
    scale = (maximum - minimum) / (high - low)
    zero_point = math.floor(low - minimum / scale + 0.5)
    return scale, min(max(zero_point, low), high)


def range_of_quantization(
    scale: float, zero_point: int, dtype: str = "int8", *, narrow: bool = False
) -> tuple[float, float]:
    """(minimum, maximum): the real numbers at the two ends of `dtype`'s integers.

    Raises:
        ValueError: if the scale is not above 0, the zero point no integer of the dtype, or the
            dtype unknown.
    """
    owner = "range_of_quantization"
    low, high = _integers(owner, dtype, narrow)
    checks.check_positive(owner, "scale", scale)
    if not low <= zero_point <= high:
        raise checks.value_error(owner, "zero_point", zero_point, f"in [{low}, {high}]")
    return scale * (low - zero_point), scale * (high - zero_point)


def quantization_of_stats(mean: float, std: float, dtype: str = "uint8") -> tuple[float, int]:
    """(scale, zero_point) of TF1's input statistics: `1 / std` and `mean`, rounded half up.

    The statistics are those of uint8 inputs, the mean in [0, 255] and the std above 0, both in
    uint8 steps; for "int8" the zero point is 128 less.

    Raises:
        ValueError: if a number lies outside its range, or the dtype is neither of the two.
    """
    owner = "quantization_of_stats"
    checks.check_choice(owner, "dtype", dtype, ("uint8", "int8"))
    checks.check_positive(owner, "std", std)
    if not 0 <= mean <= 255:
        raise checks.value_error(owner, "mean", mean, "a number in [0, 255]")
    return 1 / std, math.floor(mean + 0.5) + _INTEGERS[dtype][0]


def stats_of_quantization(
    scale: float, zero_point: int, dtype: str = "uint8"
) -> tuple[float, float]:
    """(mean, std) of uint8 inputs with this scale and zero point, which is `dtype`'s.

    Raises:
        ValueError: if the scale is not above 0, or the dtype is neither "uint8" nor "int8".
    """
    owner = "stats_of_quantization"
    checks.check_choice(owner, "dtype", dtype, ("uint8", "int8"))
    checks.check_positive(owner, "scale", scale)
    return float(zero_point - _INTEGERS[dtype][0]), 1 / scale


def stats_of_range(minimum: float, maximum: float) -> tuple[float, float]:
    """(mean, std) of uint8 inputs over the real range, nudged as `quantization_of_range` does:
    (0, 255) is (0, 1), (0, 1) is (0, 255), and (-1, 1) is (128, 127.5).

    Raises:
        ValueError: if the range is empty or not finite.
    """
    return stats_of_quantization(*quantization_of_range(minimum, maximum, "uint8"), "uint8")


def _integers(owner: str, dtype: str, narrow: bool) -> tuple[int, int]:
    """The lowest and the highest integer of `dtype`."""
    low, high = _INTEGERS[checks.check_choice(owner, "dtype", dtype, _INTEGERS)]
    return low + narrow, high
