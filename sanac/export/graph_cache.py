"""Translated graphs, memoised: in this process, and in the user's cache under a key of all that they depend on.

Tracing takes tens of seconds and depends on a component's config, not on its weights, nor on how many blocks a
transformer has. An entry that can't be read, or isn't what was stored, is a cache miss.
"""

import functools
import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from sanac.core.atomic import atomic_path
from sanac.core.json_files import key_of
from sanac.core.resources import user_cache
from sanac.export.tracing import light_tracing
from sanac.nn.silence_libraries import silent

_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "diffusers", "transformers", "accelerate", "sympy")
_SOURCES = ("export", "nn/blocks", "core/family")  # what tracing runs of this package
_ORDER = "initializers"  # metadata: all initializers in their order, those without values among them
_KEPT, _LARGEST = 64, 64_000_000  # files in the cache; bytes of one
_UNREADABLE = (DecodeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError)
_in_process: dict[str, bytes] = {}


def graph_key(about: Sequence[object]) -> str:
    """The key of a trace: its settings, and the code and libraries that trace."""
    return key_of(["translated graph", *about, _environment()])


def memoised(key: str, translate: Callable[[], ir.Model], complete: Callable[[ir.Model], ir.Model]) -> ir.Model:
    """The completed graph of a translated one; `translate` is only called where no entry of the key can be used."""
    for data in (_in_process.get(key), _read(key)):
        if data is not None:
            with suppress(*_UNREADABLE):
                found = complete(restored(data))
                _in_process[key] = data
                return found
    with _sparing_collection(), light_tracing(), silent():
        data = stored(translate())
    _in_process[key] = data
    _write(key, data)
    return complete(restored(data))


def stored(model: ir.Model) -> bytes:
    """A translated graph as bytes; weights without values stand as inputs behind its own."""
    graph = model.graph
    every = dict(graph.initializers)
    weights = [value for value in every.values() if value.const_value is None]
    graph.metadata_props[_ORDER] = json.dumps(list(every))
    for value in weights:
        graph.initializers.pop(value.name or "")
    graph.inputs.extend(weights)
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    del graph.metadata_props[_ORDER]
    _as_weights(graph, {value.name or "" for value in weights}, list(every))
    return data


def restored(data: bytes) -> ir.Model:
    """The translated graph of `stored` bytes."""
    proto = onnx.ModelProto.FromString(data)
    _check_plain(proto)
    model: ir.Model = ir.from_proto(proto)
    order = json.loads(model.graph.metadata_props.pop(_ORDER))
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy()  # a tensor whose bytes don't fit its shape is found here
    _as_weights(model.graph, set(order) - set(model.graph.initializers), order)
    return model


def _as_weights(graph: ir.Graph, names: AbstractSet[str], order: Sequence[str]) -> None:
    """Make these inputs initializers without values, and put all initializers into order."""
    weights = [value for value in graph.inputs if value.name in names]
    for value in weights:
        graph.inputs.remove(value)
    every = dict(graph.initializers) | {value.name or "": value for value in weights}
    graph.initializers.clear()
    for name in order:
        graph.initializers.add(every[name])


def _check_plain(proto: onnx.ModelProto) -> None:
    """No functions, no graphs in attributes, no values in other files: none of ours has any."""
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    tensors = [*proto.graph.initializer, *(attribute.t for attribute in attributes)]
    assert not proto.functions
    assert not proto.graph.sparse_initializer
    assert not any(attribute.HasField("g") or attribute.graphs or attribute.tensors for attribute in attributes)
    assert not any(tensor.data_location or tensor.external_data for tensor in tensors)


@functools.cache
def _environment() -> dict[str, str]:
    """Versions of the libraries, and a digest of the code that traces."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((package / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\n".encode() + path.read_bytes())
    return {name: version(name) for name in _LIBRARIES} | {"code": digest.hexdigest()}


@contextmanager
def _sparing_collection() -> Iterator[None]:
    """Objects that are already there are left out of garbage collection: tracing makes millions of new ones."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _folder() -> Path:
    return user_cache() / "graphs"


def _head(key: str, data: bytes) -> bytes:
    """First line of an entry."""
    return f"sanac graph {key} {hashlib.sha256(data).hexdigest()}\n".encode()


def _read(key: str) -> bytes | None:
    """The entry's bytes, where they are those that were written."""
    path = _folder() / f"{key}.graph"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        head, _, data = path.read_bytes().partition(b"\n")
        if head + b"\n" != _head(key, data):
            return None
    except OSError:
        return None
    with suppress(OSError):
        os.utime(path)
    return data


def _write(key: str, data: bytes) -> None:
    """Store an entry, and drop those longest unused; a cache that can't be written costs time, no more."""
    path = _folder() / f"{key}.graph"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, f".{os.getpid()}") as partial:
            partial.write_bytes(_head(key, data) + data)
        entries = sorted(path.parent.glob("*.graph"), key=lambda entry: entry.stat().st_mtime)
        for old in entries[:-_KEPT]:
            old.unlink(missing_ok=True)
