"""The state of an engine: taken off it, and given back to it or to another of its kind."""

from __future__ import annotations

import hashlib

from keras_compress.engines.engine import Engine
from keras_compress.engines.layers_argument import renamed
from keras_compress.engines.state import State
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.specs.schedules import schedule_from_config


def take(engine: Engine) -> State:
    """Everything but the weights, as it is now."""
    engine.place_if_built()
    state = State(step=engine.step, phase=engine.phase, switched_at=engine.switched_at)
    state.restarted_at = engine.recipe.restarted_at
    state.iterations = engine.adapter.iterations(engine.model)
    state.pruning, state.quantization = (
        engine.configs[name] for name in ("pruning", "quantization")
    )
    state.paths = tuple(engine.paths())
    timetable = engine.timetable
    if engine.quantization is not None:
        state.steps = {"delay": timetable.delay, "freeze_step": timetable.freeze_step}
    if engine.pruner is not None:
        state.schedules = {t.key: t.schedule.get_config() for t in engine.pruner.targets}
        state.masks = {target.key: target.kept() for target in engine.pruner.targets}
        state.started = tuple(t.key for t in engine.pruner.targets if t.started)
    if engine.quantizers is not None:
        state.observed = int(engine.quantizers.observed.numpy())
        engine.quantizers.write_to(state)
    return state


def restore(engine: Engine, state: State, owner: str) -> None:
    """Go on from `state`; `owner` is whom to name in an error.

    Raises:
        ValueError: it belongs to another model or to other specs, naming the difference.
    """
    engine.place_if_built()
    before, timetable = _check_fits(engine, state, owner), engine.timetable.copy()
    try:
        _go_on_from(engine, state)
    except Exception:  # an array of no use: as if it had never been asked
        _go_on_from(engine, before)
        engine.go_by(timetable)
        raise


def _go_on_from(engine: Engine, state: State) -> None:
    engine.step = state.step
    engine.switched_at = state.switched_at
    engine.recipe.restarted_at = state.restarted_at
    timetable = engine.timetable.copy()
    if engine.pruner is not None:
        for target in engine.pruner.targets:
            timetable.schedules[target.path] = schedule_from_config(state.schedules[target.key])
            target.started = target.key in state.started
        timetable.resolved = timetable.resolved or (0, 0)  # nothing is left to resolve
    if engine.quantization is not None:
        timetable.delay = state.steps["delay"]
        timetable.freeze_step = state.steps["freeze_step"]
    engine.go_by(timetable)
    engine.set_phase(state.phase)  # which may look at the kernels; the state knows better
    restore_arrays(engine, state)
    engine.counts.note()


def restore_arrays(engine: Engine, state: State) -> None:
    """Take the masks and ranges of `state`, and leave the step and the phase as they are."""
    if engine.pruner is not None:
        for target in engine.pruner.targets:
            target.keep(state.masks[target.key])
        engine.pruner.measure()
    if engine.quantizers is not None:
        engine.quantizers.observed.assign(state.observed)
        engine.quantizers.read_from(state)


def _check_fits(engine: Engine, state: State, owner: str) -> State:
    """The engine's own state, if that of somebody else fits it."""
    own = take(engine)
    for group in ("masks", "schedules", "steps", "ranges", "kernels"):
        theirs, ours = set(getattr(state, group)), set(getattr(own, group))
        if theirs != ours:
            raise ValueError(
                f"{owner}: the state must belong to this model; {group} differ: only in the "
                f"state {sorted(theirs - ours)}, only in the model {sorted(ours - theirs)}. "
                "Received: a state of another model, or of other specs"
            )
    for key, mask in state.masks.items():
        if mask.shape != own.masks[key].shape:
            raise ValueError(
                f"{owner}: the mask {key!r} must have the shape of its kernel, "
                f"{own.masks[key].shape}. Received: one of shape {mask.shape}"
            )
    strangers = {*state.kernel_ranges, *state.started} - {*own.kernels, *own.masks}
    if strangers:
        raise ValueError(
            f"{owner}: the state must belong to this model, which has the kernels "
            f"{sorted({*own.kernels, *own.masks})}. Received: one of {sorted(strangers)}"
        )
    for name in ("pruning", "quantization"):
        given, here = getattr(state, name), getattr(own, name)
        if given is not None:
            given = renamed(owner, given, state.paths, own.paths)
        if given != here:
            raise ValueError(
                f"{owner}: `{name}` must equal that of the run that is resumed, which has "
                f"{given}; remove what was saved of it to begin anew. Received: {name}={here}"
            )
    return own


def digest_of(adapter: Adapter, model: KerasModel) -> str:
    """What tells a model's weights from all others."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(adapter.tf_variable(variable).numpy().tobytes())
    return digest.hexdigest()
