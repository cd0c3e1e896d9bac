"""What is asked of the objects of KerasTuner, as types, since it brings none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from keras_compress.frameworks.protocols import KerasModel, Named


class HyperParameters(Protocol):
    """One point of a search space, which is declared by asking for its values."""

    values: Mapping[str, Any]

    @property
    def space(self) -> Sequence[Named]:
        """What was declared."""

    def Float(self, name: str, low: float, high: float) -> float: ...  # noqa: N802  (KerasTuner's name)

    def Choice(self, name: str, values: list[Any]) -> Any: ...  # noqa: N802  (KerasTuner's name)


Build = KerasModel | Callable[[HyperParameters], KerasModel]
"""A trained model, or what makes one."""


class Objective(Protocol):
    """What a search optimizes; one of several has `objectives` too."""

    @property
    def name(self) -> str: ...

    def get_value(self, logs: Mapping[str, float]) -> float: ...


class Oracle(Protocol):
    """Who chooses the points."""

    @property
    def objective(self) -> Objective: ...


class MetricsTracker(Protocol):
    """The metrics of one trial."""

    @property
    def metrics(self) -> Mapping[str, object]: ...

    def exists(self, name: str) -> bool: ...

    def get_last_value(self, name: str) -> float: ...


class KerasTunerTrial(Protocol):
    """One point, tried."""

    @property
    def trial_id(self) -> str: ...

    @property
    def hyperparameters(self) -> HyperParameters: ...

    @property
    def metrics(self) -> MetricsTracker: ...


class Saver(Protocol):
    """KerasTuner's callback that saves the weights of a trial."""

    @property
    def filepath(self) -> str: ...


class Tuner(Protocol):
    """Who runs the trials. `optimizer`, `loss` and `metrics` are None where `build` compiles."""

    optimizer: object
    loss: object
    metrics: object
    max_model_size: int | None
    executions_per_trial: int

    @property
    def oracle(self) -> Oracle: ...

    @property
    def project_dir(self) -> str: ...

    def get_trial_dir(self, trial_id: str) -> str: ...

    def search(self, *args: object, **kwargs: object) -> None: ...

    def on_epoch_begin(
        self, trial: KerasTunerTrial, model: KerasModel, epoch: int, logs: object = None
    ) -> None: ...

    def on_epoch_end(
        self, trial: KerasTunerTrial, model: KerasModel, epoch: int, logs: object = None
    ) -> None: ...
