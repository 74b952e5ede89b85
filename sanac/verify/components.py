"""Compares text encoders, decoders and encoders: a text encoder layer by layer, an autoencoder as a whole."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sanac.core.artifact.model import Component, Model
from sanac.core.check import Check
from sanac.core.errors import UsageError
from sanac.core.file_copy import digest_file
from sanac.nn.layer_streaming import StreamedTextEncoder, streams
from sanac.nn.silence_libraries import quiet
from sanac.nn.stock_loading import load_component
from sanac.verify.graph_cut import hidden_states
from sanac.verify.onnx_candidates import LIMITS, Candidate
from sanac.verify.parity import first_jump, relative_error
from sanac.verify.streamed_graph import LAYERS, TOKENS, GraphRun, graph_model, run_graph

PARTS = {"text_encoder": "text_encoder", "vae_decoder": "vae", "vae_encoder": "vae"}  # graph folder -> component
_TOKENS = (3, 17)  # batch, length


def compare_component(
    name: str, graph: Candidate | None, run: GraphRun | None, candidate: Model, reference: Model, limit: float | None
) -> tuple[Check | None, str]:
    """(check of a component against the reference's, None if missing or identical; where they begin to differ)."""
    ours, theirs = (_component(model, PARTS[name]) for model in (candidate, reference))
    if theirs is None and graph:
        raise UsageError(
            f"{reference.located.name} has no {PARTS[name]}",
            why=f"the candidate's {name} graph has nothing to be compared with",
            hint="--against a complete pipeline",
        )
    if theirs is None or (ours is None and graph is None) or (graph is None and same_files(ours, theirs)):
        return None, ""
    inputs, expected = _reference_outputs(name, theirs, reference, graph)
    if graph:
        found = _graph_outputs(graph, run, inputs)
    else:
        assert ours
        found = _text_states(candidate, inputs) if name == "text_encoder" else _output(name, candidate, inputs)
    least = (graph.median_limit or graph.limit) if graph else LIMITS["fp32"]
    check = Check(f"{name}, relative error", relative_error(found[-1], expected[-1]), limit or least)
    return check, "" if check.passed else _where(name, found[:-1], expected[:-1], check.limit)


def same_files(ours: Component | None, theirs: Component) -> bool:
    """Whether two components are byte-identical, so that no comparison is needed."""
    if ours is None or {path.name for path in ours.files} != {path.name for path in theirs.files}:
        return False
    pairs = zip(sorted(ours.files), sorted(theirs.files), strict=True)
    return all(one.samefile(other) or digest_file(one) == digest_file(other) for one, other in pairs)


def _component(model: Model, name: str) -> Component | None:
    return next((part for part in model.components if part.name == name and part.weights), None)


def _where(name: str, found: list[Tensor], expected: list[Tensor], limit: float) -> str:
    """The layer from which on two text encoders differ; '' if their hidden states weren't compared."""
    if len(found) != len(expected):
        return ""
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    first = first_jump(errors, limit)
    if first is None:
        return ""
    return f"the {name}s differ from " + (f"layer {first - 1} on" if first else "the embeddings on")


def _graph_outputs(graph: Candidate, run: GraphRun | None, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Hidden states where the graph names them, then the output."""
    if graph.record or run is None:
        return [graph.opened()(**inputs)[0].float().cpu()]
    model = graph_model(graph.path, graph.content)
    computed = {name for node in model.graph.node for name in node.output}
    states = [TOKENS, *hidden_states(model.graph, LAYERS)] if TOKENS in computed else []
    (values,) = run_graph(graph.path, model, run.pieces, [inputs], states)
    return [values[name].float().cpu() for name in (*states, model.graph.output[0].name)]


def _reference_outputs(
    name: str, theirs: Component, reference: Model, graph: Candidate | None
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """(inputs, outputs of the component's own class), in shapes that the graph supports."""
    generator = torch.Generator().manual_seed(0)
    if name == "text_encoder":
        shape = _accepted_shape(graph, "input_ids", _TOKENS)
        ids = torch.randint(0, theirs.config["vocab_size"], shape, generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, 9:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs, _text_states(reference, inputs)
    model: Any = load_component(reference, PARTS[name], torch.float32)
    shape = (2, model.config.latent_channels, 4, 6)
    shape = shape if name == "vae_encoder" else _accepted_shape(graph, "latent_sample", shape)
    inputs = {"latent_sample": torch.randn(shape, generator=generator)}
    if name == "vae_encoder":
        picture = _module_output("vae_decoder", model, inputs)
        sides = _accepted_shape(graph, "sample", tuple(picture.shape))[2:]
        inputs = {"sample": torch.nn.functional.interpolate(picture, sides)}
    return inputs, [_module_output(name, model, inputs)]


def _accepted_shape(graph: Candidate | None, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return graph.fitted(name, shape) if graph else shape


def _text_states(model: Model, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Hidden states of a text encoder's own class where it runs layer by layer, then its output."""
    part = _component(model, "text_encoder")
    assert part
    if not streams(part):
        loaded: Any = load_component(model, "text_encoder", torch.float32)
        with torch.no_grad(), quiet():
            return [loaded(**inputs).last_hidden_state]
    encoder = StreamedTextEncoder(model)
    with quiet():
        found = encoder(**inputs)
    return [*encoder.states, found]


def _output(name: str, model: Model, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    return [_module_output(name, load_component(model, PARTS[name], torch.float32), inputs)]


def _module_output(name: str, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Output of an autoencoder's own class for the inputs of its graph."""
    with torch.no_grad(), quiet():
        found: Tensor
        if name == "vae_decoder":
            found = model.decode(inputs["latent_sample"]).sample
        else:
            found = model.encode(inputs["sample"]).latent
    return found
