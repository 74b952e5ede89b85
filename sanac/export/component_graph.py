"""The ONNX graph of one component: how it is traced, which files it needs, and its content key."""

import hashlib
import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from sanac.core import json_files
from sanac.core.checkpoint.weights import Weights, open_folder
from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import TensorRef, read_header
from sanac.core.write.safetensors_writer import TensorSource, copied_tensor
from sanac.export.external_data import DTYPES, external_weights, link_external_data
from sanac.export.graph import OPSET, completed, translated
from sanac.export.graph_cache import graph_key, memoised
from sanac.export.qdq import insert_qdq
from sanac.export.tracing import Traced
from sanac.nn.onnx_files import GRAPH, depth_graph

SCHEMA, HALF_SCHEMA = 3, 4  # raised when the same settings would give another graph; of transformers in fp16 or bf16
WEIGHTS, LAID = "model.safetensors", "graph.safetensors"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ComponentGraph:
    """One graph: the component whose weights it uses, how it is traced, and the folder that clients expect it in."""

    component: str
    folder: str
    trace: Callable[[Path, torch.dtype], Traced]  # (folder of the component, dtype) -> traced program
    precision: str
    scheme: str  # of its quantized weights; '' if unquantized
    forms: frozenset[str]  # dtypes of its computation and of its weights
    parameters: int
    depthwise: str | None = None
    traced_with: tuple[str, ...] = ()  # what `trace` depends on besides config, precision and depthwise dtype
    blocks: int = 1  # number of blocks, of which `trace` traces one
    kept: tuple[int, ...] = ()  # the blocks that a schedule's depth runs; (): all

    @property
    def sidecar(self) -> str:
        """Name of the sidecar file for weights that the graph can't use from the checkpoint files; '' if none."""
        if self.folder != self.component:
            return WEIGHTS
        return LAID if self.scheme else ""

    @property
    def file(self) -> str:
        """Path of the graph file."""
        return f"{self.folder}/{depth_graph(len(self.kept)) if self.kept else GRAPH}"

    @property
    def files(self) -> tuple[str, ...]:
        """Files written for the graph; that of a depth shares the whole graph's sidecar."""
        if self.kept:
            return (self.file,)
        config = ("config.json",) if self.folder != self.component else ()
        return tuple(f"{self.folder}/{name}" for name in (*config, self.sidecar, GRAPH) if name)

    @property
    def schema(self) -> int:
        """Part of the content key that changes when sanac would write another graph."""
        return SCHEMA if self.component != "transformer" or self.precision == "fp32" else HALF_SCHEMA

    def key(self, model: str) -> str:
        """Content key of the graph of a model with this identity."""
        about = ["graph", self.schema, OPSET, self.folder, self.precision, self.depthwise, model]
        return json_files.key_of([*about, *([list(self.kept)] if self.kept else [])])

    def traced(self, source: Path, precision: str) -> tuple[ir.Model, list[TensorSource]]:
        """The graph of the component in `source`, weights without values, and the tensors of its sidecar file."""
        weights = _weights(source)
        try:
            model = memoised(
                self._trace_key(source, precision),
                lambda: translated(self.trace(source, PRECISIONS[precision])),
                lambda found: completed(found, self.kept or range(self.blocks)),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
            why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise InvalidInput(f"{source} can't be exported to ONNX", why=f"tracing failed: {why}") from error
        tensors, stored = insert_qdq(model, weights.parts), _by_name(weights.stored)
        in_sidecar = {piece.name for piece in tensors}
        _check_there(model, stored, in_sidecar, source)
        if self.folder != self.component:
            tensors += [copied_tensor(name, stored[name]) for name in sorted(set(external_weights(model)) - in_sidecar)]
        return model, tensors

    def _trace_key(self, source: Path, precision: str) -> str:
        """Key of the trace of the component in `source`; a transformer's doesn't depend on its depth."""
        config: object = hashlib.sha256((source / "config.json").read_bytes()).hexdigest()
        if self.component == "transformer":
            found = json_files.read_object(source / "config.json")
            config = {name: value for name, value in found.items() if name != "num_layers" and name[0] != "_"}
        return graph_key([OPSET, self.folder, precision, self.depthwise, self.traced_with, config])

    def link_weights(self, model: ir.Model, folder: Path) -> None:
        """Link the weights of a graph that will be written to `folder` as external data."""
        refs = dict(read_header(folder / self.sidecar).tensors) if self.sidecar else {}
        if self.folder == self.component:
            refs |= _by_name(_weights(folder).stored)
        link_external_data(model, refs, folder)


def _check_there(model: ir.Model, stored: Mapping[str, TensorRef], in_sidecar: Container[str], source: Path) -> None:
    """Raise InvalidInput unless every weight of the graph is in the files with the expected size."""
    problems = []
    for name in external_weights(model):
        shape = model.graph.initializers[name].shape
        assert isinstance(shape, ir.Shape)
        if name not in in_sidecar and name not in stored:
            problems.append(f"{name} is missing")
        elif name not in in_sidecar and stored[name].dtype in DTYPES and stored[name].count != math.prod(shape.numpy()):
            problems.append(f"{name} is {list(stored[name].shape)}, its config requires {list(shape.numpy())}")
    if problems:
        raise InvalidInput(f"the weights in {source} don't match its config", why=problems[0], problems=problems)


def _weights(folder: Path) -> Weights:
    found = open_folder(folder, folder)
    assert found is not None
    return found


def _by_name(refs: Iterable[TensorRef]) -> dict[str, TensorRef]:
    """Tensors by name, also without the prefix "model." of a nested model."""
    found = {ref.name: ref for ref in refs}
    return {name.removeprefix("model."): ref for name, ref in found.items()} | found
