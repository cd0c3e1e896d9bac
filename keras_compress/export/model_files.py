"""A network out of a file: which library wrote it, and the state that lies beside it."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_compress._shared.checks import type_error, value_error
from keras_compress.engines.attaching import attach_state
from keras_compress.engines.snapshot import digest_of
from keras_compress.engines.state import State
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.export.graph_detections import detections_of
from keras_compress.export.graph_source import GraphSource
from keras_compress.export.model_source import ModelSource
from keras_compress.export.source import Source
from keras_compress.frameworks.inference import Shapes
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.specs.detection import OP
from keras_compress.tflite.conversion.graph_defs import keep_needed, needed, node_of
from keras_compress.tflite.conversion.job import frozen
from keras_compress.tflite.data import read_npz
from keras_compress.tflite.file.flatbuffer import SIGNATURE

OWNER = "export_tflite"

logger = logging.getLogger("keras_compress")

ChosenInputs = Sequence[str] | Mapping[str, Sequence[int | None] | None] | None
"""Names of a graph's inputs, perhaps with their shapes."""

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
GRAPH_SUFFIXES = (".pb", ".pbtxt")


def source_of_file(
    path: str | os.PathLike[str],
    *,
    state: str | os.PathLike[str] | None = None,
    inputs: ChosenInputs = None,
    outputs: Sequence[str] | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    input_shape: Shapes = None,
) -> Source:
    """What a `.keras`, `.h5` or frozen `.pb` file, or a SavedModel folder, holds.

    Args:
        path: the file or folder.
        state: of a `.keras` or `.h5` file, what `save_state` wrote; None is the file of the same
            name with the ending ".npz", if there is one and it is a state.
        inputs, outputs: of a graph, the names of its ends; a dict gives inputs their shapes where
            the graph leaves them open. None: the placeholders, and what nothing reads.
        signature, tags: of a SavedModel, which of its signatures, and of which of its graphs.
        input_shape: of a `.keras` or `.h5` file, the shapes that its model leaves free.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is no model, or one that needs classes of the user's; ends that the graph
            does not have.
    """
    path = Path(path)
    for field, names in {"inputs": inputs, "outputs": outputs, "tags": tags}.items():
        if isinstance(names, str):
            raise type_error(OWNER, field, names, "a list of names")
    if not path.exists():
        raise FileNotFoundError(
            f"{OWNER}: `source` must be a model, or the path of one. Received: source={str(path)!r}"
            ", and there is no such file"
        )
    suffix = path.suffix
    of_keras = path.is_file() and suffix in KERAS_SUFFIXES
    is_saved_model = path.is_dir() and (path / "saved_model.pb").exists()
    for field, given in {"signature": signature, "tags": tags}.items():
        if given is not None and not is_saved_model:
            raise value_error(OWNER, field, given, "None, but for the folder of a SavedModel")
    if of_keras:
        for name, value in (("inputs", inputs), ("outputs", outputs)):
            if value is not None:
                raise value_error(OWNER, name, value, f"None for a {suffix} file, which names them")
        return ModelSource(_keras_model(path, state), input_shape)
    if state is not None:
        rule = "None, but for a .keras or .h5 file: a graph holds its own ranges"
        raise value_error(OWNER, "state", os.fspath(state), rule)
    if input_shape is not None:
        rule = "None, but for a model of Keras: give shapes with `inputs={name: shape}`"
        raise value_error("Export", "input_shape", input_shape, rule)
    if is_saved_model:
        return _saved_model(path, inputs, outputs, signature, tags)
    if path.is_file() and suffix in GRAPH_SUFFIXES:
        return _frozen_graph(path, inputs, outputs)
    hint = "this is a TFLite file already: see `inspect_tflite`" if suffix == ".tflite" else ""
    rule = "a model or the path of a .keras, .h5 or frozen .pb file, or of a SavedModel folder"
    raise value_error(OWNER, "source", str(path), rule, hint=hint)


# --- Keras


def _keras_model(path: Path, state: str | os.PathLike[str] | None) -> KerasModel:
    legacy = _version(path).startswith("2.")
    try:
        if legacy:
            import tf_keras

            _check_lambdas(path)
            model: KerasModel = tf_keras.models.load_model(path, compile=False)
        else:
            import keras

            model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # either Keras raises what a part of the file leads it to
        what = " ".join(str(error).split())
        what = what if len(what) <= 400 else f"{what[:100]} ... {what[-300:]}"  # the cause is last
        raise ValueError(
            f"{OWNER}: `source` must be a file that Keras loads by itself; load one with classes, "
            "functions or Lambda layers of your own with Keras, and give the model. "
            f"Received: source={str(path)!r} ({type(error).__name__}: {what})"
        ) from error
    beside = path.with_suffix(".npz")
    if state is not None:
        _attach(model, path, Path(state), asked=True)
    elif beside.is_file() and _is_state(beside):
        _attach(model, path, beside, asked=False)
    return model


def _attach(model: KerasModel, path: Path, beside: Path, asked: bool) -> None:
    """Compress a model out of a file as a state says.

    Raises:
        ValueError: it is the state of another training: it drops weights that are no zeros, or, if
            nobody asked for it, was saved with other weights.
    """
    state = State.load(beside)
    engine = attach_state(model, state)
    targets = [] if engine.pruner is None or is_wrapped(model, OWNER) else engine.pruner.targets
    for target in targets:
        if np.any(np.asarray(target.kernel)[~target.kept()]):
            why = f"it drops weights of {target.path!r} that are not zero there"
            break
    else:
        if state.weights in (None, digest_of(engine.adapter, model)):
            return
        why = "it was saved with other weights"
        if asked:
            logger.warning("The state in %s may not belong to %s: %s.", beside, path, why)
            return
    raise ValueError(
        f"{OWNER}: the state of a model must be of the same moment as its weights; {why}. "
        f"Received: source={str(path)!r} with the state in {str(beside)!r}. What can be done: save "
        "both again; or move the state away, and the model is a plain one"
    )


def _version(path: Path) -> str:
    """The version of the Keras that wrote a file.

    Raises:
        ValueError: no Keras wrote it, or it holds weights only.
    """
    rule = "a file that a Keras model was saved to"
    if path.suffix == ".keras":
        try:
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            hint = "it is damaged, or something else"
            raise value_error(OWNER, "source", str(path), rule, hint=hint) from error
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
    except OSError as error:
        hint = "it is damaged, or something else"
        raise value_error(OWNER, "source", str(path), rule, hint=hint) from error
    if "model_config" not in attributes:
        hint = "it holds weights only: load them into the model, and give that"
        raise value_error(OWNER, "source", str(path), rule, hint=hint)
    version = attributes.get("keras_version", "2.")
    return version.decode() if isinstance(version, bytes) else str(version)


def _check_lambdas(path: Path) -> None:
    """Refuse what either Keras refuses of a `.keras` file: tf_keras runs the code that an `.h5`
    file brings.
    """
    import h5py

    if path.suffix != ".keras":
        with h5py.File(path, "r") as file:
            config = file.attrs["model_config"]
        text = config.decode() if isinstance(config, bytes) else config
        if re.search(r'"class_name": *"Lambda"', text):
            raise ValueError("a Lambda layer is code out of the file, which is not run")


def _is_state(path: Path) -> bool:
    """Whether a file beside a model is a state; a damaged one is an error, not something else."""
    try:
        if "meta" not in read_npz(path):
            return False  # data
    except ValueError:
        pass  # `load` says what is wrong
    State.load(path)
    return True


# --- graphs


def _saved_model(
    path: Path,
    inputs: ChosenInputs,
    outputs: Sequence[str] | None,
    key: str | None,
    tags: Sequence[str] | None,
) -> Source:
    try:
        loaded = tf.saved_model.load(str(path), None if tags is None else list(tags))
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        if tags is not None and "tags" in what:
            raise value_error(OWNER, "tags", tags, "those of a graph in it", hint=what) from error
        rule = "the folder of a whole SavedModel"
        raise value_error(OWNER, "source", str(path), rule, hint=what) from error
    signatures = loaded.signatures
    if key is not None and key not in signatures:
        raise value_error(OWNER, "signature", key, f"one of {sorted(signatures)}")
    if key is None and SIGNATURE not in signatures and len(signatures) != 1:
        rule = f"a SavedModel with the signature {SIGNATURE!r}, or a single one"
        hint = f"it has {sorted(signatures)}; give the one you mean as `signature`"
        raise value_error(OWNER, "source", str(path), rule, hint=hint)
    function = signatures.get(key or SIGNATURE) or next(iter(signatures.values()))
    # TensorFlow sorts the named arguments and results of a signature.
    names = sorted(function.structured_input_signature[1])
    ends = dict(zip(names, (tensor.name for tensor in function.inputs), strict=False))
    results = dict(
        zip(
            sorted(function.structured_outputs),
            (tensor.name for tensor in function.outputs),
            strict=True,
        )
    )
    return GraphSource(
        frozen(function),
        _chosen("inputs", inputs, ends),
        _chosen("outputs", outputs, results),
        _shapes(inputs),
    )


def _frozen_graph(path: Path, inputs: ChosenInputs, outputs: Sequence[str] | None) -> Source:
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    try:
        if path.suffix == ".pbtxt":
            graph = text_format.Parse(path.read_text(), tf.compat.v1.GraphDef())
        else:
            graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        rule = "a frozen graph, as TF1's `freeze_graph` wrote it"
        hint = "it cannot be read"
        if path.name == "saved_model.pb":
            hint = "it is a part of a SavedModel: give the folder that it lies in"
        raise value_error(OWNER, "source", str(path), rule, hint=hint) from error
    variables = [node.name for node in graph.node if node.op in ("VariableV2", "VarHandleOp")]
    if variables or not graph.node:
        rule = "a frozen graph, with constants for its variables"
        hint = f"it has the variables {variables[:3]}" if variables else "it is empty"
        raise value_error(OWNER, "source", str(path), rule, hint=hint)
    read = {node_of(name) for node in graph.node for name in node.input}
    # A frozen graph's arguments are its placeholders, its results what nothing reads.
    holders = [node.name for node in graph.node if node.op == "Placeholder"]
    idle = ("Placeholder", "PlaceholderWithDefault", "Const", "NoOp", "Assert")
    ends = [node.name for node in graph.node if node.name not in read and node.op not in idle]
    known = {node.name for node in graph.node}
    given = {name: _tensor(name) for name in (holders if inputs is None else inputs)}
    if outputs is None:  # where there are detections, whatever else nobody reads is a remnant
        outputs = [node.name for node in graph.node if node.op == OP] or ends
    taken = {name: _tensor(name) for name in outputs}
    for field, names, usual in (("inputs", given, holders), ("outputs", taken, ends)):
        missing = [name for name in names if node_of(name) not in known]
        if missing or not names:
            rule = f"names of nodes of the graph, as {usual[:5]}"
            raise value_error(OWNER, field, missing, rule)
    detections = None
    found = detections_of(graph, outputs)
    if found is not None:
        detections, taken = found
    ends_of = [set(map(node_of, each.values())) for each in (given, taken)]
    open_ends = sorted(needed(graph, ends_of[1], ends_of[0]).intersection(holders))
    if open_ends:
        rule = f"all that the outputs are computed of, {[*given, *open_ends]} here"
        hint = "what only a training needs is left out where the graph of inference is frozen"
        raise value_error(OWNER, "inputs", list(given), rule, hint=hint)
    keep_needed(graph, set.union(*ends_of))
    return GraphSource(graph, given, taken, _shapes(inputs), detections)


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _chosen(field: str, given: Iterable[str] | None, known: Mapping[str, str]) -> dict[str, str]:
    """The ends to use, in the order given: name -> tensor.

    Besides the signature's names those of its nodes are known, as TF1's commands have them.
    """
    nodes = {node_of(tensor): tensor for tensor in known.values()}
    tensors = {**{tensor: tensor for tensor in known.values()}, **nodes, **known}
    names = list(known if given is None else given)
    missing = [name for name in names if name not in tensors]
    if missing or not names:
        others = f", or of its nodes: {sorted(nodes)}" if set(nodes) != set(known) else ""
        raise value_error(OWNER, field, missing, f"names of the signature: {sorted(known)}{others}")
    found = {name: tensors[name] for name in names}
    if field == "inputs" and set(found.values()) != set(known.values()):
        raise value_error(OWNER, field, names, f"all inputs of the signature: {sorted(known)}")
    return found


def _shapes(inputs: ChosenInputs) -> dict[str, Sequence[int | None]]:
    if not isinstance(inputs, Mapping):
        return {}
    return {name: shape for name, shape in inputs.items() if shape is not None}
