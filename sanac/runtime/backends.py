"""Backends of a stock diffusers pipeline: torch, onnxruntime or TensorRT run its models.

Components without a graph or engine run in torch. The torch weights of all other components are not loaded.
"""

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core.artifact.engine_record import ENGINE
from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError
from sanac.core.file_copy import digest_file
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.onnx_files import GRAPH, depth_graph, load_graph
from sanac.nn.silence_libraries import silent
from sanac.nn.stock_loading import component_config
from sanac.runtime.bf16_to_fp32 import BF16, widened
from sanac.runtime.onnx_session import OnnxRunner, OnnxSession
from sanac.runtime.pipeline_parts import Autoencoder, TextEncoder, Transformer
from sanac.runtime.tensorrt_engine import TensorrtEngine, engines_in, fitting

if TYPE_CHECKING:
    from diffusers import SanaPipeline

BACKENDS = ("torch", "onnx", "onnx-trt", "onnx-rtx", "trt")  # onnx-*: onnxruntime with a TensorRT execution provider
FOLDERS = ("transformer", "text_encoder", "vae_decoder", "vae_encoder")
PAINTING = {"transformer": "transformer", "text_encoder": "text_encoder", "vae_decoder": "vae"}  # folder -> part
_KINDS = {"transformer": Transformer, "text_encoder": TextEncoder, "vae": Autoencoder}
WIDENED = "bf16 graphs run in fp32 here: onnxruntime has no bf16 matrix products on CPUs"


def install_runners(pipeline: "SanaPipeline", runners: Mapping[str, OnnxRunner], model: Model) -> None:
    """Replace components of a pipeline by runners, keyed by component; the components need not be loaded."""
    for name, runner in runners.items():
        setattr(pipeline, name, _KINDS[name](runner, component_config(model, name)))
    if "vae" in runners:
        _count_pixels(pipeline)


def graphs_in(model: Model) -> dict[str, Path]:
    """Graphs of an artifact by component folder."""
    if alone := model.find_file(GRAPH):
        return {"transformer": alone}
    found = {name: model.find_file(f"{name}/{GRAPH}") for name in FOLDERS}
    return {name: path for name, path in found.items() if path}


def depth_graphs_in(model: Model) -> dict[int, Path]:
    """Graphs of an artifact's transformer by depth of its schedule, without the whole one."""
    schedule = model.schedule
    folder = "" if model.find_file(GRAPH) else "transformer/"
    depths = range(1, len(schedule.order)) if schedule else ()
    found = {depth: model.find_file(f"{folder}{depth_graph(depth)}") for depth in depths}
    return {depth: path for depth, path in found.items() if path}


def exported_identity(model: Model, backend: str) -> list[list[str]]:
    """What a backend runs besides the model's weights, for keys: each graph's digest, each engine's size and time.

    Graphs that were added to an artifact later are not part of its identity.
    """
    if backend == "torch":
        return []
    if backend != "trt":
        graphs = (*graphs_in(model).values(), *depth_graphs_in(model).values())
        return sorted([path.parent.name, path.name, digest_file(path)] for path in graphs)
    engines = (path for name in PAINTING for path in (model.located.path / name).glob(f"model.*{ENGINE}"))
    found = ((path, path.stat()) for path in engines)
    return sorted([path.parent.name, path.name, f"{stat.st_size} {stat.st_mtime_ns}"] for path, stat in found)


def open_depths(
    model: Model, backend: str, device: str = "cpu", reporter: Reporter = NULL_REPORTER
) -> dict[int, OnnxRunner]:
    """Sessions or engines of the depths that a model's schedule needs, without the whole one."""
    schedule = model.schedule
    assert schedule
    depths = range(1, len(schedule.order))
    if backend == "trt":
        engines = {depth: engines_in(model, "transformer", depth) for depth in depths}
        files = {depth: fitting(those) for depth, those in engines.items() if those}
    else:
        files = depth_graphs_in(model)
    runs = schedule.deepened((*files, len(schedule.order)))
    if runs != schedule:
        reporter.note(f"steps without a graph of their depth run the next deeper one: {runs}")
    needed = {depth: path for depth, path in files.items() if depth in runs.depths}
    if backend == "trt":
        where = device if device.startswith("cuda") else "cuda"
        return {depth: TensorrtEngine(path, where) for depth, path in needed.items()}
    return {depth: OnnxSession(path, device, _content(path, device), backend) for depth, path in needed.items()}


def open_parts(
    model: Model, backend: str, device: str = "cpu", reporter: Reporter = NULL_REPORTER
) -> dict[str, OnnxRunner]:
    """Sessions or engines of a model for this backend, by component; UsageError if the transformer has none."""
    if backend == "torch":
        return {}
    found: dict[str, OnnxRunner] = {}
    if backend != "trt":
        graphs = {name: path for name, path in graphs_in(model).items() if name in PAINTING}
        contents = {name: _content(path, device) for name, path in graphs.items()}
        if any(contents.values()):
            reporter.warn(WIDENED)
        found = {PAINTING[name]: OnnxSession(path, device, contents[name], backend) for name, path in graphs.items()}
    else:
        paths = {part: engines_in(model, name) for name, part in PAINTING.items()}
        where = device if device.startswith("cuda") else "cuda"
        found = {part: TensorrtEngine(fitting(those), where) for part, those in paths.items() if those}
    if "transformer" not in found:
        what, how = ("engine", " --trt") if backend == "trt" else ("graph", "")
        where = f"{model.located.path} --in-place" if model.manifest else f"{model.located.name} --out exported"
        why = f"its transformer was not exported for --backend {backend}"
        raise UsageError(f"{model.located.name} has no {what}", why=why, hint=f"sanac export {where}{how}")
    for part in set(_KINDS) - found.keys():
        reporter.note(f"the {part} runs in torch: it has no {'engine' if backend == 'trt' else 'graph'}")
    return found


def _content(path: Path, device: str) -> bytes | None:
    """The graph converted to fp32 if a CPU can't run it in bf16; None if the file can be opened as it is."""
    if device != "cpu":
        return None
    model = load_graph(path)
    kinds = {one.type.tensor_type.elem_type for one in model.graph.output}
    return widened(model).SerializeToString() if BF16 in kinds else None


def _count_pixels(pipeline: "SanaPipeline") -> None:
    """Set the scale factor and image processor, as the pipeline's constructor does with an autoencoder."""
    with silent():
        from diffusers.image_processor import PixArtImageProcessor

    pipeline.vae_scale_factor = 2 ** (len(pipeline.vae.config.encoder_block_out_channels) - 1)
    pipeline.image_processor = PixArtImageProcessor(vae_scale_factor=pipeline.vae_scale_factor)


class _Words:
    """A tokenizer with a lock: fast tokenizers keep padding settings as state, so calls must not overlap."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __call__(self, *texts: Any, **how: Any) -> Any:
        with self._lock:
            return self._tokenizer(*texts, **how)

    def encode(self, *texts: Any, **how: Any) -> Any:
        """Token ids of the texts."""
        with self._lock:
            return self._tokenizer.encode(*texts, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def thread_safe(pipeline: "SanaPipeline") -> "SanaPipeline":
    """Make a pipeline callable from several threads: each call gets its own scheduler, the models are shared."""
    stock, words = type(pipeline), _Words(pipeline.tokenizer)

    def call(self: "SanaPipeline", *arguments: Any, **settings: Any) -> Any:
        """Run the call on a copy, as a stock pipeline stores the state of a call in itself."""
        mine = copy.copy(self)
        mine.__class__ = stock
        mine.scheduler = type(self.scheduler).from_config(self.scheduler.config)
        mine.__dict__["tokenizer"] = words
        return mine(*arguments, **settings)

    pipeline.__class__ = type(stock.__name__, (stock,), {"__call__": call, "__module__": stock.__module__})
    return pipeline
