"""Closed-form repair of each gap: folds the contribution of the dropped blocks into the weights before the gap.

The block before a gap ends in y = x + g * (W z): `ff.conv_point` is W, z its input, g the gate, one number per channel
and timestep. dW is added to W so that the block's output comes closer to the output of the dropped blocks:

    minimise  sum over tokens |delta - g_t * (dW z)|^2  +  ridge * |dW|^2,     delta = teacher at the gap's end - y

The problem separates by output channel c, whose Gram matrix is the sum over t of g_tc^2 K_t, with K_t = sum of z z'
over the tokens of one timestep. Only the K_t are stored; no channel's Gram matrix is ever formed, as conjugate
gradients only multiply by the K_t. A gap before the first kept block is folded into `patch_embed.proj`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.family.architecture import block_name
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.blocks.block import POINT, Conditioning, Geometry, before_conv_point, block, conv_point
from sanac.nn.blocks.embed_head import BlockInputs
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.states import CalibrationStates

Tensors = Mapping[str, Tensor]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # times the Gram matrix's mean diagonal; chosen per gap on held-out prompts
ROUNDS = 60  # most iterations of conjugate gradients
TOLERANCE = 1e-5  # relative residual at which conjugate gradients stop
EMBEDDING = "patch_embed.proj"


@dataclass(frozen=True, slots=True)
class Gap:
    """Distance between student and teacher after a gap, on the held-out prompts that chose the ridge."""

    first: int  # first dropped block
    last: int
    before: float  # |teacher - student|^2 / |teacher|^2
    after: float
    ridge: float | None  # None: no ridge improved on the unrepaired gap


@dataclass
class Repair:
    """The fitted weight changes, under the source model's tensor names, and the result at each gap."""

    changes: dict[str, Tensor] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


@dataclass
class _Stream:
    """Hidden states of one guidance branch at one sampled step, as teacher and student compute them."""

    moment: int
    start: BlockInputs
    latents: Tensor  # latents
    teacher: Tensor
    student: Tensor


@dataclass
class Sums:
    """Accumulated normal equations of one gap; tokens of a group (one timestep) share the gate."""

    grams: dict[int, Tensor] = field(default_factory=dict)  # group -> K (inputs, inputs)
    gates: dict[int, Tensor] = field(default_factory=dict)  # group -> g (outputs)
    right: Tensor | None = None  # sum of g * delta z': (outputs, inputs)

    def add(self, group: int, gate: Tensor, activations: Tensor, delta: Tensor) -> None:
        """Add the tokens of one group: activations (tokens, inputs) and targets `delta` (tokens, outputs)."""
        activations = activations.double()
        self.grams[group] = self.grams.get(group, 0) + activations.T @ activations
        self.gates[group] = gate.double()
        right = (delta.double() * gate.double()).T @ activations
        self.right = right if self.right is None else self.right + right

    def solve(self, ridge: float) -> Tensor:
        """Solve for dW (outputs, inputs) with a ridge relative to each channel's mean Gram diagonal."""
        assert self.right is not None, "nothing was added"
        diagonal = sum(self.gates[group].square()[:, None] * self.grams[group].diagonal()[None] for group in self.grams)
        assert isinstance(diagonal, Tensor)
        damping = ridge * diagonal.mean(dim=1, keepdim=True) + torch.finfo(torch.float64).tiny
        return _conjugate_gradients(self._product, self.right, damping, diagonal + damping)

    def _product(self, change: Tensor) -> Tensor:
        """Each output channel's Gram matrix times its row of `change`."""
        found = torch.zeros_like(change)
        for group, gram in self.grams.items():
            found += self.gates[group].square()[:, None] * (change @ gram)
        return found


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, damping: Tensor, diagonal: Tensor
) -> Tensor:
    """Solve one linear system per row of `right`, preconditioned by the diagonal."""
    solution = torch.zeros_like(right)
    residual = right.clone()
    searched = residual / diagonal
    direction, energy = searched, (residual * searched).sum(dim=1, keepdim=True)
    goal = TOLERANCE * right.norm()
    for _ in range(ROUNDS):
        if residual.norm() <= goal:
            break
        image = product(direction) + damping * direction
        step = energy / (direction * image).sum(dim=1, keepdim=True).clamp_min(1e-300)
        solution, residual = solution + step * direction, residual - step * image
        searched = residual / diagonal
        renewed = (residual * searched).sum(dim=1, keepdim=True)
        direction, energy = searched + renewed / energy.clamp_min(1e-300) * direction, renewed
    return solution


def gaps_of(kept: BlockSubset, blocks: int) -> dict[int, int]:
    """Map the kept block before each gap to the last dropped block of the gap; -1 is the patch embedding."""
    stops = (*kept[1:], blocks) if kept else (blocks,)
    found = {index: stop - 1 for index, stop in zip(kept, stops, strict=True) if stop - 1 > index}
    return ({-1: kept[0] - 1} if kept and kept[0] > 0 else {}) | found


@dataclass
class _StreamSet:
    """Teacher and student hidden states of a set of prompts."""

    states: CalibrationStates
    streams: list[_Stream]

    @classmethod
    def of(cls, states: CalibrationStates) -> "_StreamSet":
        """Start teacher and student from the same embedded inputs."""
        return cls(
            states,
            [
                _Stream(
                    number, replace(start, state=start.state.new_empty(0)), moment.latents, start.state, start.state
                )
                for part in states.parts()
                for number, moment in enumerate(part.moments)
                for start in part.starts(moment)
            ],
        )

    def teach(self, tensors: Tensors) -> None:
        """Run the teacher's hidden states through a block."""
        for stream in self.streams:
            stream.teacher = block(tensors, stream.teacher, stream.start.conditioning, self.states.geometry)

    def learn(self, tensors: Tensors) -> None:
        """Run the student's hidden states through a block."""
        for stream in self.streams:
            stream.student = block(tensors, stream.student, stream.start.conditioning, self.states.geometry)


def fit(
    fitted: CalibrationStates, chosen: CalibrationStates, kept: BlockSubset, reporter: Reporter = NULL_REPORTER
) -> Repair:
    """Repair all gaps front to back, each on top of the earlier repairs. Fits on `fitted`, picks ridges on `chosen`."""
    repair, stream_sets = Repair(), (_StreamSet.of(fitted), _StreamSet.of(chosen))
    gaps = gaps_of(kept, len(fitted.blocks))
    reporter.begin("repairing", len(fitted.blocks), "blocks")
    try:
        _teach(stream_sets, 0, gaps.get(-1, -1), reporter)
        if -1 in gaps:
            _repair_embedding(stream_sets, gaps[-1], repair)
        for index in kept:
            tensors = _teach(stream_sets, index, gaps.get(index, index), reporter)
            if index in gaps:
                tensors = _repair_block(stream_sets, tensors, index, gaps[index], repair)
            for stream_set in stream_sets:
                stream_set.learn(tensors)
    finally:
        reporter.end()
    return repair


def _teach(stream_sets: Sequence[_StreamSet], first: int, last: int, reporter: Reporter) -> Tensors:
    """Run the teacher through the blocks from `first` to `last`; returns the tensors of the first."""
    found: Tensors = {}
    for index in range(first, last + 1):
        tensors = stream_sets[0].states.blocks.block(index)
        found = found or tensors
        for stream_set in stream_sets:
            stream_set.teach(tensors)
        reporter.advance(1)
    return found


def _repair_block(
    stream_sets: Sequence[_StreamSet], tensors: Tensors, index: int, last: int, repair: Repair
) -> Tensors:
    """Fit `conv_point` of the block before a gap; returns the block's tensors with the change applied."""
    weight, geometry = tensors[POINT], stream_sets[0].states.geometry
    sums = Sums()
    for stream in stream_sets[0].streams:
        activations, gate, after = last_operation(tensors, stream.student, stream.start.conditioning, geometry)
        sums.add(stream.moment, gate, activations, (stream.teacher - after).flatten(0, 1))
    name = block_name(index, POINT)
    candidates: dict[float | None, Tensor] = {None: torch.zeros_like(weight)}
    for strength in RIDGES:
        change = sums.solve(strength).to(weight.dtype).reshape(weight.shape)
        candidates[strength] = stream_sets[0].states.as_stored(name, weight + change) - weight
    errors = dict.fromkeys(candidates, 0.0)
    for stream in stream_sets[1].streams:
        activations, gate, after = last_operation(tensors, stream.student, stream.start.conditioning, geometry)
        missing, whole = stream.teacher - after, stream.teacher.double().square().sum()
        for candidate, change in candidates.items():
            errors[candidate] += _share(
                missing - (gate * (activations @ change.flatten(1).T)).reshape(missing.shape), whole
            )
    ridge = min(errors, key=lambda candidate: errors[candidate])
    shown = len(stream_sets[1].streams)
    repair.gaps.append(Gap(index + 1, last, errors[None] / shown, errors[ridge] / shown, ridge))
    if ridge is None:
        return tensors
    repair.changes[name] = candidates[ridge]
    return {**tensors, POINT: weight + candidates[ridge]}


def _share(difference: Tensor, whole: Tensor) -> float:
    """Squared norm of the difference to the teacher, relative to the teacher's energy; NaN counts as infinite."""
    found = float(difference.double().square().sum() / whole)
    return found if math.isfinite(found) else math.inf


def last_operation(
    tensors: Tensors, state: Tensor, condition: Conditioning, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Input (tokens, H) and gate (C) of a block's `conv_point`, and the block's output (B, N, C)."""
    state, activations, gate = before_conv_point(tensors, state, condition, geometry)
    return (
        activations.flatten(2).transpose(1, 2).flatten(0, 1),
        gate[0, 0],
        state + gate * conv_point(tensors, activations),
    )


def _repair_embedding(stream_sets: Sequence[_StreamSet], last: int, repair: Repair) -> None:
    """Fit the patch embedding for a gap before the first kept block. No gate: all channels share one Gram matrix."""
    outside = stream_sets[0].states.outside
    weight, bias = outside[f"{EMBEDDING}.weight"], outside[f"{EMBEDDING}.bias"]
    gram = right = torch.zeros((), dtype=torch.float64, device=weight.device)
    for stream in stream_sets[0].streams:
        patches = _patches(stream.latents, weight)
        gram = gram + patches.T @ patches
        right = right + patches.T @ (stream.teacher - stream.student).flatten(0, 1).double()
    candidates: dict[float | None, Tensor] = {None: torch.zeros_like(right)}
    for strength in RIDGES:
        damping = (strength * gram.diagonal()[:-1].mean()).expand(len(gram)).clone()
        damping[-1] = 0  # the bias is not regularised
        candidates[strength] = torch.linalg.solve(gram + damping.diag(), right)
    errors = dict.fromkeys(candidates, 0.0)
    for stream in stream_sets[1].streams:
        patches, whole = _patches(stream.latents, weight), stream.teacher.double().square().sum()
        missing = (stream.teacher - stream.student).flatten(0, 1)
        for candidate, change in candidates.items():
            errors[candidate] += _share(missing - patches @ change, whole)
    ridge = min(errors, key=lambda candidate: errors[candidate])
    shown = len(stream_sets[1].streams)
    repair.gaps.append(Gap(0, last, errors[None] / shown, errors[ridge] / shown, ridge))
    if ridge is None:
        return
    found = candidates[ridge].T.to(weight.dtype)
    for name, old, change in (("weight", weight, found[:, :-1]), ("bias", bias, found[:, -1])):
        stored = stream_sets[0].states.as_stored(f"{EMBEDDING}.{name}", old + change.reshape(old.shape))
        repair.changes[f"{EMBEDDING}.{name}"] = stored - old
    for stream_set in stream_sets:
        parts = stream_set.states.changed(repair.changes).parts()
        starts = (start for part in parts for moment in part.moments for start in part.starts(moment))
        for stream, start in zip(stream_set.streams, starts, strict=True):
            stream.student = start.state


def _patches(latents: Tensor, weight: Tensor) -> Tensor:
    """Inputs of the patch embedding, (tokens, channels x patch x patch), with a column of ones for the bias."""
    patch = weight.shape[-1]
    patches = F.unfold(latents.to(weight.dtype), patch, stride=patch).transpose(1, 2).flatten(0, 1).double()
    return torch.cat((patches, torch.ones_like(patches[:, :1])), dim=1)
