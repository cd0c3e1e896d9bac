"""What is asked about optimizers: how they make their updates, and how they begin anew."""

from __future__ import annotations

import abc
import contextlib
from typing import Any, cast

from keras_compress.frameworks.asked.one_keras import OneKeras
from keras_compress.frameworks.protocols import KerasModel, KerasVariable
from keras_compress.frameworks.updates import Updates, put_back


class Optimizers(OneKeras):
    """One Keras, asked about optimizers."""

    def iterations(self, model: KerasModel) -> int | None:
        """The optimizer's own count of steps; None without an optimizer."""
        optimizer = getattr(model, "optimizer", None)
        return None if optimizer is None else int(self.count_of(optimizer).numpy())

    def count_of(self, optimizer: Any) -> KerasVariable:
        """The variable in which an optimizer counts."""
        return cast(KerasVariable, optimizer.iterations)

    def making(self, optimizer: Any, updates: Updates) -> contextlib.AbstractContextManager[None]:
        """While inside, an optimizer makes its updates so."""
        return updates.by(self.at_work(optimizer), self.changed_class)

    def at_work(self, optimizer: Any) -> Any:
        """The optimizer that has rate, count and slots: what one that scales the loss holds."""
        return getattr(optimizer, "inner_optimizer", optimizer)

    @abc.abstractmethod
    def changed_class(self, plain: Any, updates: Updates) -> type:
        """The class by which an optimizer of that class makes its updates so."""

    @abc.abstractmethod
    def why_not_changed(self, optimizer: Any) -> str | None:
        """Why this Keras' way to change the updates of an optimizer is not there for this one."""

    @abc.abstractmethod
    def why_not_begun_anew(self, optimizer: Any) -> str | None:
        """Why an optimizer could not begin anew and then go on as a new one would."""

    def begin_anew(self, optimizer: Any, model: KerasModel) -> bool:
        """Give an optimizer the slots of a new one for the weights as they are; its count and its
        learning rate stay. Whether its next update has to be traced anew for that.
        """
        own = self.at_work(optimizer)
        weights = self.slotted(own, model)
        if not weights:  # new itself
            return False
        with model.distribute_strategy.scope():
            fresh = self.new_like(own)
            self.build_optimizer(fresh, weights)
            put_back(own, fresh, self.kept_by)
        return self.forget_traces(own)

    def new_like(self, optimizer: Any) -> Any:
        """A new optimizer of the same config, but for its rate, which makes no slots."""
        config = dict(optimizer.get_config())
        if "learning_rate" in config:  # a user's schedule may not be made again so easily
            config["learning_rate"] = 0.1
        return type(optimizer).from_config(config)

    @abc.abstractmethod
    def slotted(self, optimizer: Any, model: KerasModel) -> list[Any]:
        """The weights that an optimizer has slots for, in its own order."""

    def build_optimizer(self, optimizer: Any, weights: list[Any]) -> None:
        """Make the slots of a new optimizer."""
        optimizer.build(weights)

    @abc.abstractmethod
    def kept_by(self, optimizer: Any) -> list[Any]:
        """The variables of an optimizer that are no slots."""

    def forget_traces(self, optimizer: Any) -> bool:
        """Begin anew what an optimizer counts while it is traced; whether it counts anything."""
        return False
