"""Whatever a report holds as what JSON has."""

from __future__ import annotations

import math
from typing import Any


def plain(value: object) -> Any:
    """`value` out of dicts, lists and plain values; what is not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "item"):  # a number of NumPy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
