"""`preview`: what a fit would do to a model, without a fit."""

from __future__ import annotations

import functools
from typing import Any, cast

from keras_compress._shared.checks import check_bool, check_int
from keras_compress.engines.engine import engine_of
from keras_compress.fit import preflight
from keras_compress.fit.callback import Compress
from keras_compress.fit.loop import NoCallbacks
from keras_compress.fit.plan import plan_of
from keras_compress.fit.run import Run
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel
from keras_compress.reports.preview import Preview
from keras_compress.specs.export import Export
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.tflite import ConversionError


def preview(
    model: KerasModel,
    *,
    pruning: Pruning | None = None,
    quantization: Quantization | None = None,
    export: Export | None = None,
    steps: int | None = None,
    epochs: int = 1,
    partial: bool = False,
) -> Preview:
    """What a `fit` with these specs would do to a model: layer by layer, and at which update.

    The code that plans a fit plans this one, so that the two cannot differ. The model is left as it
    was. With an `export` the untrained network is converted once, as a fit does before its first
    step, which takes some seconds and tells the bytes of the file; `Export(rehearse=False)` leaves
    that out.

    ```python
    print(kc.preview(model, pruning=kc.Pruning(0.5), steps=10 * len(batches), epochs=10))
    ```

    Args:
        model: built, of Keras 3 or tf_keras; compiled or not. One that is compressed already needs
            no specs.
        pruning, quantization, export: as for `Compress`.
        steps: updates of the whole fit; None: nobody knows, and the specs have no fractions.
        epochs: over which they are spread.
        partial: the fit is one of several of a plan, as for `Compress`.

    Returns:
        `Preview`; what a fit would refuse is in its `problems`.

    Raises:
        TypeError, ValueError: an argument that cannot be; or a spec that means nothing in this
            model, so that there is no plan.
    """
    adapter = adapter_of(model, "preview")
    if not model.built:
        raise ValueError(
            "preview: `model` must be built; call it on a batch of data first. "
            f"Received: model={type(model).__name__} without weights"
        )
    if steps is not None:
        steps = check_int("preview", "steps", steps, minimum=1)
    epochs = check_int("preview", "epochs", epochs, minimum=1)
    partial = check_bool("preview", "partial", partial)
    if pruning is None and quantization is None and export is None and engine_of(model):
        member = engine_of(model).owner  # type: ignore[union-attr]  # it is there
    else:
        member = Compress(
            pruning=pruning,
            quantization=quantization,
            export=export,
            partial=partial,
            verbose=0,
        )
    params: dict[str, Any] = {"steps": steps, "epochs": 1}
    run = Run(model, adapter, cast(KerasCallbackList, NoCallbacks(params)))
    with adapter.in_fit_state(model):
        run.join(member, pruning, quantization)
        return _planned(run, member.export, steps, epochs, partial or member.partial)


def _planned(
    run: Run, export: Export | None, steps: int | None, epochs: int, partial: bool
) -> Preview:
    model, engine = run.model, run.engine
    if engine is not None:
        engine.place_if_built()  # of a model that was wrapped before it had shapes
    before = None if engine is None else engine.timetable.copy()
    exports = [] if export is None else [export]
    checks = preflight.Checks(model, engine, exports, steps, not partial, lambda *_: None)
    problems: list[str] = []
    try:
        if engine is not None:
            if engine.timetable.has_fractions and steps is None:
                raise ValueError(
                    "preview: `steps` must be given, because steps of the specs are fractions of "
                    f"the fit. Received: {' '.join(str(s) for s in engine.asked.values() if s)}"
                )
            engine.resolve(engine.step, steps or 0)
        first = [functools.partial(preflight.check_export, engine, each) for each in exports]
        if engine is not None:
            first.append(functools.partial(preflight.check_ranges_are_set, engine))
        for check in (*first, *checks):
            try:
                check()
            except (ValueError, TypeError, OSError, ConversionError) as error:
                problems.append(" ".join(str(error).split()))
        return plan_of(checks, 1, epochs, problems)
    finally:
        if engine is not None and before is not None:
            engine.go_by(before)
        run.withdraw()
