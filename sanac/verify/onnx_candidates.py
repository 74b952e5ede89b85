"""Opens the ONNX graphs of a candidate: checks seals and signatures, and converts bf16 graphs to fp32."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from sanac.core.artifact.engine_record import Record
from sanac.core.artifact.manifest import changed_after_sealing
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import digest_file
from sanac.nn.onnx_files import GRAPH, check_references, load_graph
from sanac.runtime.backends import depth_graphs_in, graphs_in
from sanac.runtime.bf16_to_fp32 import widened
from sanac.runtime.onnx_session import OnnxSession
from sanac.runtime.tensorrt_engine import TensorrtEngine

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-3}  # relative error; a bf16 graph's constants have 8 significant bits
ENGINE_LIMITS = {"fp32": 2e-3, "fp16": 3e-2, "bf16": 8e-2}  # GPUs multiply fp32 in TF32, and half precision as it is
UNSEEN = 2e-3  # on the median error, if activations are quantized and their codes can't be read
_KINDS = {"float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "bf16": "bf16"}
WIDENED = "bf16 graphs were checked by onnx, then compared with all values converted to fp32"
TIPPED = "activations are quantized, so a last-bit difference can flip a rounding: the limit applies to the median case"
ALIKE = (
    "activations are quantized, so a last-bit difference can flip a rounding: the reference replays the candidate's "
    "rounding. Without the replay, the relative error is {:.2g} in the median and {:.2g} at worst"
)
SIGNATURES = {  # component folder -> (input -> number of dimensions, number of output dimensions)
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
class Candidate:
    """A graph to compare, possibly converted to fp32, or an engine."""

    path: Path
    precision: str  # of the graph
    rounds_activations: bool  # whether activations are quantized
    content: bytes | None = None
    record: Record | None = None  # of an engine

    @property
    def limit(self) -> float:
        """Default limit on the relative error."""
        return (ENGINE_LIMITS if self.record else LIMITS)[self.precision]

    @property
    def median_limit(self) -> float | None:
        """Default limit on the median relative error if activations are quantized, else None."""
        return max(self.limit, UNSEEN) if self.rounds_activations else None

    def opened(self, device: str = "cpu") -> OnnxSession | TensorrtEngine:
        """Open the graph in a session, or the engine on the GPU."""
        return TensorrtEngine(self.path) if self.record else OnnxSession(self.path, device, self.content)

    def fitted(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of an input, clamped to the range that an engine supports."""
        if self.record is None:
            return tuple(shape)
        entry = self.record.inputs[name]
        return tuple(min(max(*pair), most) for *pair, most in zip(shape, entry["least"], entry["most"], strict=True))


def open_candidates(model: Model) -> dict[str, Candidate]:
    """A model's graphs by component folder; bf16 graphs are converted to fp32, as CPUs have no bf16 products."""
    _check_seals(model)
    rounded = rounding(model)
    return {name: _opened(name, path, rounded) for name, path in graphs_in(model).items()}


def open_depth_candidates(model: Model) -> dict[int, Candidate]:
    """A model's graphs by depth of its schedule, without the whole one."""
    rounded = rounding(model)
    return {depth: _opened("transformer", path, rounded) for depth, path in depth_graphs_in(model).items()}


def _opened(component: str, path: Path, rounded: set[str]) -> Candidate:
    check_references(path)
    content = load_graph(path)
    precision = _precision(component, path, content)
    found = Candidate(path, precision, component in rounded)
    if precision == "bf16":
        _check(path)
        return replace(found, content=widened(content).SerializeToString())
    return found


def rounding(model: Model) -> set[str]:
    """Names of the components with quantized activations."""
    return {
        part.name
        for part in model.components
        if part.weights
        for p in part.weights.parts.values()
        if p.spec.activations
    }


def _check_seals(model: Model) -> None:
    """Check an artifact's graphs and the weight files they reference against their sealed digests."""
    graphs = (*graphs_in(model).values(), *depth_graphs_in(model).values())
    paths = (file for path in graphs for file in (path, *check_references(path)))
    check_sealed_files(model, GRAPH, paths)


def check_sealed_files(model: Model, kind: str, paths: Iterable[Path]) -> None:
    """Raise if a sealed file of this kind is missing or one of `paths` isn't as sealed; ignores non-artifacts."""
    if model.manifest is None:
        return
    root, sealed = model.located.path, model.manifest.files
    lost = [name for name in sealed if name.endswith(kind) and not (ConfinedPath(root) / name).is_file()]
    if lost:
        raise changed_after_sealing(root, [f"{name} is missing" for name in lost])
    for path in dict.fromkeys(paths):
        known = sealed.get(path.relative_to(root).as_posix())
        if known is None:
            raise changed_after_sealing(path, [f"{path.name} was added after the artifact was sealed"])
        inside = ConfinedPath(root) / path.relative_to(root)
        if not inside.is_file() or digest_file(inside) != known.blake3:
            raise changed_after_sealing(path, [f"the digest of {path.name} differs from the sealed one"])


def _precision(name: str, path: Path, model: onnx.ModelProto) -> str:
    """Precision of a graph, by the dtype of its output; InvalidInput if its signature is unexpected."""
    given = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    outputs = [value.type.tensor_type for value in model.graph.output]
    alike = len(outputs) == 1 and len(outputs[0].shape.dim) == SIGNATURES[name][1]
    kinds = [onnx.TensorProto.DataType.Name(output.elem_type).lower() for output in outputs]
    return precision_of(name, path, given, kinds if alike else [])


def precision_of(name: str, path: Path, given: Mapping[str, int], outputs: Sequence[str]) -> str:
    """Precision of a graph or engine of the component `name`, from its inputs' dimensions and output dtypes."""
    inputs, _ = SIGNATURES[name]
    wrong = [f"input {one}" for one in given.keys() ^ inputs.keys() - (_OPTIONAL - given.keys())]
    wrong += [f"the dimensions of {one}" for one in given.keys() & inputs.keys() if given[one] != inputs[one]]
    if len(outputs) != 1:
        wrong.append("its outputs")
    elif outputs[0] not in _KINDS:
        wrong.append(f"the dtype of its output, {outputs[0]}")
    if wrong:
        why = f"its signature differs from a {name}'s in {wrong[0]}"
        raise InvalidInput(f"{path} can't be compared", why=why, problems=wrong, hint="export it with sanac export")
    return _KINDS[outputs[0]]


def _check(path: Path) -> None:
    """Run onnx's full checker on a graph that can't be run as it is."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidInput(f"{path} is not a valid ONNX graph", why=str(error).strip().splitlines()[0][:300]) from error
