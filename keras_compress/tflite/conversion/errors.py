"""What the converter says when it fails, as one reason and one remedy."""

from __future__ import annotations

import re

CHATTER_LINES = 20
"""How much of what the converter printed is shown when it fails."""


class ConversionError(RuntimeError):
    """The converter made no file.

    Attributes:
        reason: what went wrong, one line; with the op and the layer where the converter told.
        remedy: what can be done about it.
        chatter: what the converter printed, for a bug report; may be long, may be empty.
    """

    ag_pass_through = True
    """Asks AutoGraph, through whose frames one may come, for it as it is: it makes others anew."""

    def __init__(self, reason: str, remedy: str, chatter: str = "") -> None:
        super().__init__(f"The TFLite conversion failed: {reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.chatter = chatter
        lines = chatter.strip().splitlines()[-CHATTER_LINES:]
        if lines:  # a traceback shows them
            self.add_note("\n".join(["The converter printed at the end:", *lines]))


_MEMORY = "close other programs or export a smaller model"
_OUT_OF_MEMORY = ("bad_alloc", "MemoryError", "ResourceExhausted", "Cannot allocate memory")


def remedy_for_crash(reason: str, quantized: bool, chatter: str = "") -> str:
    """What to do when the worker ended as `reason` says, after it had printed that."""
    if any(sign in chatter for sign in _OUT_OF_MEMORY):
        return f"The memory ran out: {_MEMORY}"
    if "SIGKILL" in reason:
        return f"Most likely the memory ran out: {_MEMORY}"
    if "killed by" not in reason:
        return "The installation may be damaged: see `chatter` for what the process printed"
    if quantized:
        return (
            "An op with quantized inputs makes the converter crash: leave layers out with "
            "`layers=` until it passes, and report that layer"
        )
    return (
        "Calibration does so for recurrent layers (LSTM, GRU): export with mode 'float32', or "
        "leave them out of the exported model"
    )


_ERROR = re.compile(r"error: (?:loc\((?P<place>.*?)\): )?(?P<what>.+)")
_QUOTED = re.compile(r'"([^"@]+)[@"]')


def translate(kind: str, message: str, mode: str = "int8") -> ConversionError:
    """The converter's many lines, of a conversion in `mode`, as one reason and one remedy."""
    found = _ERROR.search(message)
    first = next((line.strip() for line in message.splitlines() if line.strip()), kind)
    reason = re.sub(r"\{[^{}]*\}", "{...}", found["what"] if found else first).rstrip(". ")
    # Of the names of a place, the last is the op in the graph, under the path of its layer.
    names = _QUOTED.findall(found["place"] or "") if found else []
    where = f" (at {names[-1]!r})" if names else ""
    reason = reason[:300] + where
    if any(sign in f"{kind} {message}" for sign in _OUT_OF_MEMORY):
        remedy = f"The memory ran out: {_MEMORY}"
    elif "neither a custom op nor a flex op" in message:
        remedy = "TFLite has no such op: replace that layer, or compute its part outside the model"
    elif "op resolver for calibration" in message:
        remedy = (
            "Calibration runs the network, which has an op that TFLite has not: use a mode that "
            "needs none"
        )
    elif "should be recorded" in message:
        remedy = "Something that no range is known of, as an input of integers: use mode 'int8'"
    elif mode == "float32":
        remedy = "Replace that layer, or compute its part outside the model"
    elif "quant" in message.lower():
        remedy = (
            "Its ranges or channel axes do not fit an integer kernel: leave that layer in float "
            "with `layers=` and `allow_float_ops=True`, and report it"
        )
    else:
        remedy = "Try mode 'float32' to see whether quantization is the reason"
    return ConversionError(reason, remedy, message)
