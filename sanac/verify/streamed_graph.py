"""Runs an ONNX graph piece by piece: one session at a time, holding only the weights of its piece."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.nn.allocator import give_back_when_freed
from sanac.runtime.bf16_to_fp32 import looked_up
from sanac.runtime.onnx_session import OnnxSession
from sanac.verify.graph_cut import (
    GraphPiece,
    cut_graph,
    cut_problems,
    hidden_states,
    piece_model,
    weight_sizes,
    why_uncut,
)

BLOCKS, LAYERS, TOKENS = "transformer_blocks", "layers", "embed_tokens"  # names that export gives to hidden states
_SMALL = 500_000_000  # bytes of a session that is opened as a whole: faster, and its memory doesn't matter
_SEEN = "/seen"  # suffix of the outputs that are added to a graph
Values = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class GraphRun:
    """How a graph is run: in these pieces, or as a whole where there are none, and why it isn't cut."""

    pieces: tuple[GraphPiece, ...]
    memory: int  # bytes of the largest session
    why_whole: str = ""

    @property
    def how(self) -> str:
        """The way in a word or two."""
        return f"in {len(self.pieces)} pieces" if self.pieces else "as a whole"


def plan_run(path: Path, content: bytes | None = None, *, small: int | None = None) -> GraphRun:
    """Pieces of the graph at `path`, or of `content` in its place; none if its session is small or it can't be cut.

    `small`: bytes of a session that is opened as a whole; by default half a gigabyte.
    """
    model = graph_model(path, content)
    tables = looked_up(model.graph)
    whole = session_memory(*weight_sizes(model.graph, tables))
    if whole <= (_SMALL if small is None else small):
        return GraphRun((), whole)
    states = [*_tokens(model), *(hidden_states(model.graph, BLOCKS) or hidden_states(model.graph, LAYERS))]
    if why := why_uncut(model, states):
        return GraphRun((), whole, why)
    pieces = cut_graph(model.graph, states)
    if problems := cut_problems(model.graph, pieces):
        raise InvalidInput(f"{path} is not a valid graph", why=problems[0], problems=problems)
    sizes = (weight_sizes(model.graph, tables, set(piece.initializers)) for piece in pieces)
    return GraphRun(tuple(pieces), max(session_memory(*size) for size in sizes))


def session_memory(count: int, stored: int) -> int:
    """Bytes of a session with so many weights while it is opened: cast, transposed, and read."""
    return 8 * count + stored


def graph_model(path: Path, content: bytes | None = None) -> ModelProto:
    """The graph at `path`, or `content` in its place, without external data."""
    return onnx.load_from_string(content) if content else onnx.load(path, load_external_data=False)


def _tokens(model: ModelProto) -> list[str]:
    return [TOKENS] if any(TOKENS in node.output for node in model.graph.node) else []


def run_graph(
    path: Path,
    model: ModelProto,
    pieces: Sequence[GraphPiece],
    cases: Sequence[Values],
    seen: Sequence[str],
    device: str = "cpu",
) -> list[dict[str, Tensor]]:
    """Outputs of a graph and its values `seen` (codes in fp32) by name, for each case.

    Without pieces in one session; else each session is closed before the next one is opened.
    """
    if not pieces:
        whole = ModelProto()
        whole.CopyFrom(model)
        _observe(whole, seen)
        session = OnnxSession(path, device, whole.SerializeToString())
        return [_named(session, case, seen) for case in cases]
    return _run_pieces(path, model, pieces, cases, seen, device)


def _run_pieces(
    path: Path,
    model: ModelProto,
    pieces: Sequence[GraphPiece],
    cases: Sequence[Values],
    seen: Sequence[str],
    device: str,
) -> list[dict[str, Tensor]]:
    give_back_when_freed()
    wanted = {*seen, *(value.name for value in model.graph.output)}
    found: list[dict[str, Tensor]] = [{} for _ in cases]
    passed = [dict(case) for case in cases]
    kinds: dict[str, tuple[int, int]] = {}
    for place, piece in enumerate(pieces):
        later = {name for following in pieces[place + 1 :] for name in following.inputs}
        part = piece_model(model, piece, kinds)
        made = {name for node in part.graph.node for name in node.output}
        here = [name for name in seen if name in made]
        _observe(part, here)
        session = OnnxSession(path, device, part.SerializeToString(), keep_memory=False)
        handed = later.intersection(piece.outputs)
        if unknown := handed - session.dtypes.keys():
            raise InvalidInput(f"{path} can't be run in pieces", why=f"{min(unknown)} has an unsupported dtype")
        for number, values in enumerate(passed):
            outputs = _named(session, values, here)
            found[number].update({name: value for name, value in outputs.items() if name in wanted})
            kinds.update({name: (session.dtypes[name], outputs[name].dim()) for name in handed})
            kept = {name: value for name, value in values.items() if name in later}
            passed[number] = kept | {name: outputs[name] for name in handed}
        del session
    return found


def _named(session: OnnxSession, inputs: Values, seen: Iterable[str]) -> dict[str, Tensor]:
    """The session's outputs by name, in memory that doesn't belong to it."""
    outputs: dict[str, Tensor] = dict(zip(session.outputs, session(**inputs), strict=True))
    aliases = {f"{name}{_SEEN}": name for name in seen}
    return {aliases.get(name, name): value.clone() for name, value in outputs.items()}


def _observe(model: ModelProto, names: Sequence[str]) -> None:
    """Make values outputs of a graph, cast to fp32, if they are not outputs already."""
    graph = model.graph
    known = {value.name for value in graph.output}
    new = [name for name in names if name not in known]
    graph.node.extend(
        onnx.helper.make_node("Cast", [name], [f"{name}{_SEEN}"], to=onnx.TensorProto.FLOAT) for name in new
    )
    graph.output.extend(onnx.ValueInfoProto(name=f"{name}{_SEEN}") for name in new)
