"""The calibration job: fits GPTQ values, static activation scales and smoothing factors in one sweep over the blocks.

Results are cached in the workspace, one file per block; a stopped run continues after the last finished block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.checkpoint.quant_json import QuantConfig, WeightSpec
from sanac.core.confined import ConfinedPath
from sanac.core.family.architecture import split_block
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.core.quant.layer_rules import plan_quantization
from sanac.core.safetensors_header import read_header
from sanac.core.write.job import ArtifactJob
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.quantize.activation_scales import RANGES, STRENGTHS
from sanac.quantize.calibration_sweep import SAMPLE, Sweep, fit_in, shared_input_of
from sanac.quantize.plan import repack, weights_of
from sanac.quantize.settings import QuantizeSettings

SCHEMA = 2  # raised when the same settings would find something else
REPORT = "fit.json"
EVERY = 4  # calibrates on every 4th sampler step
PROMPTS = 32


def fitting_states(job: ArtifactJob, settings: CalibrationSettings, reporter: Reporter) -> Calibration:
    """The calibration states of a quantize job; raises at once if they don't fit into memory."""
    specs = job.rewrites["transformer"].quantized.weights
    count_is_open = settings.sizes_are_open
    if settings.num_prompts is None and settings.prompts is None and settings.embeddings is None:
        settings = replace(settings, num_prompts=PROMPTS)
    states = replace(calibration(job.model, settings, EVERY, min_prompts=1), count_is_open=count_is_open)
    fixed = max(_solving_bytes(spec) for spec in specs.values())
    fixed += sum(_gathered_bytes(spec) for spec in _shared_inputs(specs).values())
    return states.fit_to_memory(fixed, states.moments * (states.state_bytes + states.caption_bytes), reporter)


def _solving_bytes(spec: WeightSpec) -> int:
    """Bytes needed to fit one weight."""
    rows, columns = spec.shape[0], spec.columns
    solving = 5 * 8 * columns**2 if spec.rounding == "gptq" else 0
    trying = 4 * SAMPLE * (3 * rows + 3 * columns) if spec.activations else 0
    return solving + trying + 16 * rows * columns


def _gathered_bytes(spec: WeightSpec) -> int:
    """Bytes of statistics collected on a weight's activations until its block is done."""
    sums = 8 * spec.columns**2 if spec.rounding == "gptq" else 0
    return sums + (4 * SAMPLE * spec.columns if spec.activations else 0)


def _shared_inputs(specs: Mapping[str, WeightSpec]) -> dict[str, WeightSpec]:
    """One weight per distinct input of a block."""
    inside = ((split_block(name), spec) for name, spec in specs.items())
    return {shared_input_of(place[1]): spec for place, spec in inside if place}


def with_fit(job: ArtifactJob, states: Calibration) -> ArtifactJob:
    """The job with calibration in its settings and key, so that it names another artifact. Computes nothing yet."""
    settings = {**job.settings, "fit": {"schema": SCHEMA, **states.settings}}
    return replace(job, settings=settings, key=json_files.key_of([job.key, settings["fit"]]))


@dataclass(frozen=True)
class CalibrationJob(CachedStep[dict[str, Any]]):
    """The calibration of a quantize job, with all settings resolved."""

    job: ArtifactJob
    settings: QuantizeSettings
    states: Calibration
    workspace: ConfinedPath
    yes: bool = False  # allow estimates above one hour
    fresh: bool = False  # ignore the cached result

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the calibration"

    @property
    def quant_config(self) -> QuantConfig:
        """Quantization config of the transformer."""
        return self.job.rewrites["transformer"].quantized

    @property
    def ranges(self) -> str:
        """Method for static activation ranges: minmax, percentile or mse."""
        return self.settings.activation_range or RANGES[0]

    @cached_property
    def key(self) -> str:
        """Content key: equal for calibrations with the same result."""
        quantized = {**self.quant_config.to_json(), "left": {}}
        return json_files.key_of([self.job.settings["fit"], self.job.identity, quantized, self.ranges])

    @property
    def folder(self) -> ConfinedPath:
        """Folder of the calibration in the workspace."""
        return self.workspace / f"fit-{self.key[:8]}"

    @property
    def seconds(self) -> float:
        """Estimated seconds of the calibration."""
        states, blocks = self.states, self.states.model.architecture.blocks
        tokens = states.tokens * states.moments * states.count
        weights = self.quant_config.weights.values()
        gptq = [how for how in weights if how.rounding == "gptq"]
        sums = (
            2.0
            * blocks
            * tokens
            * sum(h.columns**2 for h in _shared_inputs(self.quant_config.weights).values() if h in gptq)
        )
        more = sums + sum(2.0 * how.shape[0] * how.columns**2 + how.columns**3 for how in gptq)
        tries = {True: 2 * (len(STRENGTHS) + 1), False: 0}
        more += sum(
            2.0 * SAMPLE * h.shape[0] * h.columns * tries[bool(h.activations and h.activations.smooth)] for h in weights
        )
        return states.seconds(2.0, more=more, readings=2)

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time of the calibration; above one hour it requires --yes."""
        self.states.check_budget("calibrating", self.seconds, reporter, yes=self.yes)

    def load(self) -> dict[str, Any] | None:
        """Report of a cached calibration, or None if files are missing or don't match their digests."""
        known = load_cached(self.folder / REPORT, self.key, {"files": dict})
        whole = known and all(_has(self.folder / name, digest) for name, digest in known["files"].items())
        return known if whole else None

    def run(self, reporter: Reporter) -> ArtifactJob:
        """The job with the calibration result, read from the cache or computed now."""
        report = run_step(self, reporter, fresh=self.fresh)
        headers = {file: read_header(Path(self.folder / file)) for file in report["files"]}
        places = {name: place[0] for name in self.quant_config.weights if (place := split_block(name))}
        fits = {name: fit_in(headers[_file_of(index)], name) for name, index in places.items()}
        part = self.job.model.transformer
        again = repack(
            part, self.job.config, plan_quantization(part.name, weights_of(part).tensors, self.settings.request), fits
        )
        repacked = {**self.job.rewrites, "transformer": again}
        return replace(self.job, rewrites=repacked, overrides_digest=digest_file(self.folder / REPORT))

    def forget(self) -> None:
        """Delete the cached result, finished or not."""
        self.folder.rmtree(ignore_errors=True)

    def compute(self, reporter: Reporter) -> dict[str, Any]:
        """Calibrate block by block, continuing a stopped run; returns the report."""
        if (self.folder / REPORT).exists():  # a finished result that no longer matches its digests
            self.forget()
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {}
        with torch.no_grad():
            states = self.states.sample()
            sweep = Sweep(self.key, self.quant_config, self.ranges, states)
            blocks = range(len(states.blocks))
            reporter.begin("calibrating", len(blocks), "blocks")
            try:
                for index, tensors in states.blocks.sweep(blocks):
                    file = self.folder / _file_of(index)
                    sweep.advance(index, tensors, file)
                    files[file.name] = digest_file(file)
                    reporter.advance(1)
            finally:
                reporter.end()
        report = {"key": self.key, "files": files}
        store_cached(self.folder / REPORT, report)
        return report


def _file_of(index: int) -> str:
    return f"block-{index:03d}.safetensors"


def _has(file: ConfinedPath, digest: str) -> bool:
    return file.is_file() and digest_file(file) == digest
