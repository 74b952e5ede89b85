"""The graphs of a candidate: those that were sealed, of the form that clients expect, ready to be run here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from sanac.core.artifact.engine_record import Record
from sanac.core.artifact.manifest import changed_after_sealing
from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import digest_file
from sanac.nn.onnx_files import GRAPH, check_references, load_graph
from sanac.runtime.backends import graphs_in
from sanac.runtime.bf16_to_fp32 import widened
from sanac.runtime.onnx_session import OnnxSession
from sanac.runtime.tensorrt_engine import TensorrtEngine

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-3}  # relative error; constants of a bf16 graph have eight bits
ENGINE_LIMITS = {"fp32": 2e-3, "fp16": 3e-2, "bf16": 8e-2}  # GPUs multiply fp32 in TF32, and halves as halves
UNSEEN = 2e-3  # of the median, where what weights are multiplied by is rounded and nobody sees how
_KINDS = {"float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "bf16": "bf16"}
WIDENED = "bf16 graphs were checked by onnx; compared were the same files with all their numbers widened to fp32"
TIPPED = "it rounds what weights are multiplied by: a last bit can tip a number over; medians are judged"
ALIKE = (
    "it rounds what weights are multiplied by, and a last bit can tip a number over: the reference was told how it "
    "did. Each rounding by itself, they are {:.2g} apart in the median, {:.2g} at worst"
)
SIGNATURES = {  # of each: inputs with their dimensions, and the output's
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
    """A graph that can be run here, as it is or widened in its place; or an engine."""

    path: Path
    precision: str  # of the graph
    rounded: bool  # whether what weights are multiplied by is quantized
    content: bytes | None = None
    record: Record | None = None  # of an engine

    @property
    def limit(self) -> float:
        """Of the relative error, unless the user says otherwise."""
        return (ENGINE_LIMITS if self.record else LIMITS)[self.precision]

    @property
    def unseen(self) -> float | None:
        """The same of the median, where it can't be seen how it rounds; None: it doesn't."""
        return max(self.limit, UNSEEN) if self.rounded else None

    def opened(self, device: str = "cpu") -> OnnxSession | TensorrtEngine:
        """In a session, or on the GPU."""
        return TensorrtEngine(self.path) if self.record else OnnxSession(self.path, device, self.content)

    def fitted(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """This shape of an input, or the nearest that it takes."""
        if self.record is None:
            return tuple(shape)
        entry = self.record.inputs[name]
        return tuple(min(max(*pair), most) for *pair, most in zip(shape, entry["least"], entry["most"], strict=True))


def open_candidates(model: Model) -> dict[str, Candidate]:
    """A model's graphs; those in bf16, of which there are no products here, widened."""
    _check_seals(model)
    rounded, found = rounding(model), {}
    for name, path in graphs_in(model).items():
        check_references(path)
        content = load_graph(path)
        precision = _precision(name, path, content)
        found[name] = Candidate(path, precision, name in rounded)
        if precision == "bf16":
            _check(path)
            found[name] = replace(found[name], content=widened(content).SerializeToString())
    return found


def rounding(model: Model) -> set[str]:
    """Components in which what weights are multiplied by is quantized, too."""
    return {
        part.name
        for part in model.components
        if part.weights
        for p in part.weights.parts.values()
        if p.spec.activations
    }


def _check_seals(model: Model) -> None:
    """An artifact's graphs, and the files that they take weights from, are those that were sealed."""
    paths = (file for path in graphs_in(model).values() for file in (path, *check_references(path)))
    check_sealed_files(model, GRAPH, paths)


def check_sealed_files(model: Model, kind: str, paths: Iterable[Path]) -> None:
    """No sealed file of this kind is lost, and these are what was sealed; a model that is no artifact has no seals."""
    if model.manifest is None:
        return
    root, sealed = model.located.path, model.manifest.files
    lost = [name for name in sealed if name.endswith(kind) and not (root / name).is_file()]
    if lost:
        raise changed_after_sealing(root, [f"{name} is missing" for name in lost])
    for path in dict.fromkeys(paths):
        known = sealed.get(path.relative_to(root).as_posix())
        if known is None:
            raise changed_after_sealing(path, [f"{path.name} is no file of the artifact: it was added"])
        if not path.is_file() or digest_file(path) != known.blake3:
            raise changed_after_sealing(path, [f"{path.name} has another digest than when it was sealed"])


def _precision(name: str, path: Path, model: onnx.ModelProto) -> str:
    """What a graph computes in: the dtype of its output; BadInput unless it is called as its kind is."""
    given = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    outputs = [value.type.tensor_type for value in model.graph.output]
    alike = len(outputs) == 1 and len(outputs[0].shape.dim) == SIGNATURES[name][1]
    kinds = [onnx.TensorProto.DataType.Name(output.elem_type).lower() for output in outputs]
    return precision_of(name, path, given, kinds if alike else [])


def precision_of(name: str, path: Path, given: Mapping[str, int], outputs: Sequence[str]) -> str:
    """The same of anything that stands for a part, by its inputs' dimensions and the dtypes of its outputs."""
    inputs, _ = SIGNATURES[name]
    wrong = [f"input {one}" for one in given.keys() ^ inputs.keys() - (_OPTIONAL - given.keys())]
    wrong += [f"the dimensions of {one}" for one in given.keys() & inputs.keys() if given[one] != inputs[one]]
    if len(outputs) != 1:
        wrong.append("its outputs")
    elif outputs[0] not in _KINDS:
        wrong.append(f"the dtype of its output, {outputs[0]}")
    if wrong:
        why = f"unlike any {name}'s that clients know: {wrong[0]}"
        raise InvalidInput(f"{path} can't be compared", why=why, problems=wrong, hint="sanac export makes such ones")
    return _KINDS[outputs[0]]


def _check(path: Path) -> None:
    """Onnx's full check, of what can't be run as it is."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidInput(f"{path} is no valid graph", why=str(error).strip().splitlines()[0][:300]) from error
