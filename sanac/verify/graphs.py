"""The graphs of a candidate: those that were sealed, of the form that clients expect, ready to be run here."""

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from sanac.core.copying import digest_file
from sanac.core.errors import BadInput
from sanac.core.manifest import changed_after_sealing
from sanac.core.model import Model
from sanac.export.job import FOLDERS
from sanac.runtime.onnx import GRAPH, Graph, check_references, load_graph
from sanac.verify.widened import widened

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-3}  # relative error; constants of a bf16 graph have eight bits
ROUNDED = 2e-3  # where what weights are multiplied by is rounded, too: now and then to another number
_KINDS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
WIDENED = "bf16 graphs were checked by onnx; compared were the same files with all their numbers widened to fp32"
TIPPED = "it rounds what weights are multiplied by: a last bit can tip a number over; medians are judged"
_SIGNATURES = {  # of each: inputs with their dimensions, and the output's
    "transformer": (
        {"hidden_states": 4, "encoder_hidden_states": 3, "encoder_attention_mask": 2, "timestep": 1, "guidance": 1},
        4,
    ),
    "text_encoder": ({"input_ids": 2, "attention_mask": 2}, 3),
    "vae_decoder": ({"latent_sample": 4}, 4),
    "vae_encoder": ({"sample": 4}, 4),
}
_OPTIONAL = {"guidance"}


@dataclass(frozen=True, slots=True)
class Ready:
    """A graph that can be run here: as it is, or widened in its place."""

    path: Path
    precision: str  # of the graph
    rounded: bool  # whether what weights are multiplied by is quantized
    content: bytes | None = None

    @property
    def limit(self) -> float:
        """Of the relative error, unless the user says otherwise."""
        return max(LIMITS[self.precision], ROUNDED if self.rounded else 0)

    def opened(self, device: str = "cpu") -> Graph:
        """In a session."""
        return Graph(self.path, device, self.content)


def graphs_in(model: Model) -> dict[str, Path]:
    """The graphs of an artifact, by the folder they stand in."""
    root = model.located.path if model.located.path.is_dir() else model.located.path.parent
    if (root / GRAPH).is_file():
        return {"transformer": root / GRAPH}
    return {name: root / name / GRAPH for name in FOLDERS if (root / name / GRAPH).is_file()}


def ready(model: Model) -> dict[str, Ready]:
    """A model's graphs; those in bf16, of which there are no products here, widened."""
    _check_seals(model)
    rounded = {
        part.name for part in model.components if part.weights for p in part.weights.parts.values() if p.packing.given
    }
    found = {}
    for name, path in graphs_in(model).items():
        check_references(path)
        content = load_graph(path)
        precision = _precision(name, path, content)
        found[name] = Ready(path, precision, name in rounded)
        if precision == "bf16":
            _check(path)
            found[name] = replace(found[name], content=widened(content).SerializeToString())
    return found


def _check_seals(model: Model) -> None:
    """An artifact's graphs, and the files that they take weights from, are those that were sealed."""
    if model.manifest is None:
        return
    root, sealed = model.located.path, model.manifest.files
    lost = [name for name in sealed if name.endswith(GRAPH) and not (root / name).is_file()]
    if lost:
        raise changed_after_sealing(root, [f"{name} is missing" for name in lost])
    wanted = {file: None for path in graphs_in(model).values() for file in (path, *check_references(path))}
    for path in wanted:
        known = sealed.get(path.relative_to(root).as_posix())
        if known is None:
            raise changed_after_sealing(path, [f"{path.name} is no file of the artifact: it was added"])
        if digest_file(path) != known.blake3:
            raise changed_after_sealing(path, [f"{path.name} has another digest than when it was sealed"])


def _precision(name: str, path: Path, model: onnx.ModelProto) -> str:
    """What a graph computes in: the dtype of its output; BadInput unless it is called as its kind is."""
    inputs, rank = _SIGNATURES[name]
    given = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    wrong = [f"input {one}" for one in given.keys() ^ inputs.keys() - (_OPTIONAL - given.keys())]
    wrong += [f"the dimensions of {one}" for one in given.keys() & inputs.keys() if given[one] != inputs[one]]
    outputs = [value.type.tensor_type for value in model.graph.output]
    if len(outputs) != 1 or len(outputs[0].shape.dim) != rank:
        wrong.append("its outputs")
    elif outputs[0].elem_type not in _KINDS:
        wrong.append(f"the dtype of its output, {onnx.TensorProto.DataType.Name(outputs[0].elem_type)}")
    if wrong:
        why = f"unlike any {name}'s that clients know: {wrong[0]}"
        raise BadInput(f"{path} can't be compared", why=why, problems=wrong, hint="sanac export makes such graphs")
    return _KINDS[outputs[0].elem_type]


def _check(path: Path) -> None:
    """Onnx's full check, of what can't be run as it is."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadInput(f"{path} is no valid graph", why=str(error).strip().splitlines()[0][:300]) from error
