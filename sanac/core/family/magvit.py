"""MAGVIT-v2's image tokenizer, as Show-o uses it: the tensors of its checkpoints, and the sizes that these tell."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.core.family.showo import tensor_problems
from sanac.core.safetensors_header import TensorRef

CLASS = "MAGVITv2"
GROUPS = 32  # of the normalisations; a checkpoint's tensors don't tell
_MOST_BITS = 18  # MAGVIT-v2 has 18, Show-o 13
_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.block\.(\d+)\.conv1\.weight")
_BUFFERS = ("quantize.embedding", "quantize.power_vals")

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Coder:
    """An encoder or a decoder: channels and residual blocks of each level, the full resolution first."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MagvitArchitecture:
    """Sizes of an image tokenizer whose code is the signs of `bits` channels."""

    bits: int
    encoder: Coder
    decoder: Coder
    stem: int  # channels behind the encoder's first convolution
    groups: int = GROUPS

    @property
    def codes(self) -> int:
        """Entries of the codebook."""
        return int(2**self.bits)

    @property
    def shrinkage(self) -> int:
        """Pixels of an image's side per token."""
        return int(2 ** (len(self.decoder.channels) - 1))

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of a checkpoint, by name."""
        found = {f"encoder.{name}": shape for name, shape in self._encoder()}
        found |= {f"decoder.{name}": shape for name, shape in self._decoder()}
        return found | {"quantize.embedding": (self.codes, self.bits), "quantize.power_vals": (self.bits,)}

    def _encoder(self) -> Shapes:
        yield from _conv("conv_in", self.stem, 3)
        before, last = self.stem, len(self.encoder.channels) - 1
        for level, (channels, blocks) in enumerate(zip(self.encoder.channels, self.encoder.blocks, strict=True)):
            for block in range(blocks):
                yield from _residual(f"down.{level}.block.{block}", before, channels)
                before = channels
            if level < last:
                yield from _conv(f"down.{level}.downsample.conv", channels, channels)
        yield from _middle(before)
        yield from _norm("norm_out", before)
        yield from _conv("conv_out", self.bits, before)
        yield from _conv("quant_conv", self.bits, self.bits, 1)

    def _decoder(self) -> Shapes:
        before = self.decoder.channels[-1]
        yield from _conv("post_quant_conv", self.bits, self.bits, 1)
        yield from _conv("conv_in", before, self.bits)
        yield from _middle(before)
        for level in reversed(range(len(self.decoder.channels))):
            for block in range(self.decoder.blocks[level]):
                yield from _residual(f"up.{level}.block.{block}", before, self.decoder.channels[level])
                before = self.decoder.channels[level]
            if level:
                yield from _conv(f"up.{level}.upsample.conv", before, before)
        yield from _norm("norm_out", before)
        yield from _conv("conv_out", 3, before)

    def config(self) -> dict[str, Any]:
        """The content of config.json: only what the tensors don't tell."""
        return {"_class_name": CLASS} | ({"norm_groups": self.groups} if self.groups != GROUPS else {})


def _conv(name: str, out: int, inputs: int, kernel: int = 3) -> Shapes:
    yield f"{name}.weight", (out, inputs, kernel, kernel)
    yield f"{name}.bias", (out,)


def _norm(name: str, channels: int) -> Shapes:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _residual(name: str, before: int, channels: int) -> Shapes:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", channels, before)
    yield from _norm(f"{name}.norm2", channels)
    yield from _conv(f"{name}.conv2", channels, channels)
    if before != channels:
        yield from _conv(f"{name}.nin_shortcut", channels, before, 1)


def _middle(channels: int) -> Shapes:
    yield from _residual("mid.block_1", channels, channels)
    yield from _norm("mid.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"mid.attn_1.{name}", channels, channels, 1)
    yield from _residual("mid.block_2", channels, channels)


def recognise_magvit(tensors: Mapping[str, TensorRef], config: Mapping[str, Any], where: str) -> MagvitArchitecture:
    """The architecture, derived from all tensors and checked against them; InvalidInput otherwise."""
    shapes = {name: ref.shape for name, ref in tensors.items()}
    bits, stem = (_first(shapes, name) for name in ("encoder.conv_out.weight", "encoder.conv_in.weight"))
    coders = [_coder(shapes, part) for part in ("encoder", "decoder")]
    groups = config.get("norm_groups", GROUPS)
    if not (0 < bits <= _MOST_BITS and stem and all(one.channels for one in coders)):
        raise InvalidInput(f"{where} is not a MAGVIT-v2 image tokenizer", why="it lacks an encoder or a decoder")
    found = MagvitArchitecture(bits, coders[0], coders[1], stem, groups if type(groups) is int else 0)
    expected = found.tensors
    stored = shapes | {name: expected[name] for name in _BUFFERS if name not in shapes}  # they can be computed
    problems = tensor_problems(stored, expected)
    widths = {stem, *coders[0].channels, *coders[1].channels}
    if found.groups < 1 or any(width % found.groups for width in widths):
        problems.append(f"{groups!r} groups don't divide its channels: {', '.join(map(str, sorted(widths)))}")
    if len(coders[0].channels) != len(coders[1].channels):
        problems.append(f"its encoder has {len(coders[0].channels)} levels, its decoder {len(coders[1].channels)}")
    if problems:
        raise InvalidInput(f"{where} doesn't fit MAGVIT-v2's architecture", why=problems[0], problems=problems)
    return found


def _coder(shapes: Mapping[str, tuple[int, ...]], part: str) -> Coder:
    """Channels and blocks of each level, as far as levels follow each other."""
    levels: dict[int, dict[int, int]] = {}
    for name, shape in shapes.items():
        found = _BLOCK.fullmatch(name)
        if found and found[1] == part and shape:
            levels.setdefault(int(found[2]), {})[int(found[3])] = shape[0]
    rows = [levels[level] for level in range(len(levels)) if level in levels]
    return Coder(tuple(row[min(row)] for row in rows), tuple(map(len, rows)))


def _first(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    return (shapes.get(name) or (0,))[0]
