"""Which Keras is asked."""

from __future__ import annotations

import abc
import types


class OneKeras(abc.ABC):
    """One of the two. Stateless; `keras` is its package."""

    keras: types.ModuleType
    tree: types.ModuleType
    """What flattens and packs nested inputs and outputs in this Keras' order of keys."""
    package: str
    """The module prefix of this Keras' own classes."""

    def is_own(self, thing: object) -> bool:
        """Whether the class of `thing` is Keras' own, not a user's."""
        return self.owns(type(thing).__module__)

    def owns(self, module: str | None) -> bool:
        """Whether a module is Keras' own."""
        return (module or "").startswith(f"{self.package}.")
