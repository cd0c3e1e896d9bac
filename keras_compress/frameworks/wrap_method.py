"""One method of one object replaced, and put back."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable

from keras_compress.frameworks.protocols import Method


def wrap_method(thing: object, name: str, make: Callable[[Method], Method]) -> Callable[[], None]:
    """Replace a method on one instance by `make(original)`; returns what undoes it.

    Written to `__dict__`, because `__setattr__` of both Keras inspects and tracks what it is given.
    A method takes the place of a method: tf_keras looks at `self` when it writes a SavedModel.
    """
    own = thing.__dict__
    had, before = name in own, own.get(name)
    original = getattr(thing, name)
    replacement = make(original)
    own[name] = replacement
    if inspect.ismethod(original):

        @functools.wraps(original.__func__)
        def method(_: object, *args: object, **kwargs: object) -> object:
            return replacement(*args, **kwargs)

        # tf_keras' wrappers of layers ask what the `call` inside takes, and do not look behind it.
        vars(method)["__signature__"] = inspect.signature(original.__func__)
        own[name] = types.MethodType(method, thing)

    def undo() -> None:
        if had:
            own[name] = before
        else:
            own.pop(name, None)

    return undo
