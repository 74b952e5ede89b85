"""MAGVIT-v2's image tokenizer: images to codes and back, with the names of Show-o's checkpoints.

Lookup-free quantization: a code is the signs of `bits` channels, read as a binary number, the first channel as its
highest bit. So the codebook needs no search and no weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sanac.core.family.magvit import MagvitArchitecture


class ImageTokenizer(nn.Module):  # type: ignore[misc]
    """Encoder, decoder, and the signs between them."""

    def __init__(self, architecture: MagvitArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture)
        self.decoder = Decoder(architecture)
        self.quantize = Signs(architecture.bits)

    def encode(self, images: Tensor) -> Tensor:
        """Codes (count, tokens) of images (count, 3, height, width) with values from -1 to 1."""
        codes: Tensor = self.quantize.codes(self.encoder(images))
        return codes

    def decode(self, codes: Tensor, rows: int) -> Tensor:
        """Images with values about -1 to 1 of codes (count, tokens), `rows` rows of tokens each."""
        images: Tensor = self.decoder(self.quantize.channels(codes, rows))
        return images


class Signs(nn.Module):  # type: ignore[misc]
    """The codebook: entry n has the binary digits of n as -1 and 1."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        entries = torch.arange(2**bits)[:, None].bitwise_and(powers).ne(0)
        self.register_buffer("embedding", entries.float() * 2 - 1)
        self.register_buffer("power_vals", powers)

    def codes(self, channels: Tensor) -> Tensor:
        """Codes (count, tokens) of channels (count, bits, rows, columns)."""
        return torch.einsum("cbrw,b->crw", (channels > 0).long(), self.power_vals).flatten(1)

    def channels(self, codes: Tensor, rows: int) -> Tensor:
        """Channels (count, bits, rows, columns) of codes (count, tokens)."""
        return self.embedding[codes].transpose(1, 2).unflatten(2, (rows, -1))


class Encoder(nn.Module):  # type: ignore[misc]
    """Images to channels whose signs are the code."""

    def __init__(self, shape: MagvitArchitecture) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, shape.stem, 3, padding=1)
        self.down = nn.ModuleList()
        before, last = shape.stem, len(shape.encoder.channels) - 1
        for level, (channels, blocks) in enumerate(zip(shape.encoder.channels, shape.encoder.blocks, strict=True)):
            part = nn.Module()
            part.block = nn.ModuleList(
                Residual(before if not block else channels, channels, shape.groups) for block in range(blocks)
            )
            part.downsample = Downsample(channels) if level < last else nn.Identity()
            self.down.append(part)
            before = channels
        self.mid = Middle(before, shape.groups)
        self.norm_out = nn.GroupNorm(shape.groups, before, eps=1e-6)
        self.conv_out = nn.Conv2d(before, shape.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(shape.bits, shape.bits, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Channels (count, bits, rows, columns), before their signs are taken."""
        found = self.conv_in(images)
        for part in self.down:
            for block in part.block:
                found = block(found)
            found = part.downsample(found)
        return self.quant_conv(self.conv_out(functional.silu(self.norm_out(self.mid(found)))))


class Decoder(nn.Module):  # type: ignore[misc]
    """Signs to images."""

    def __init__(self, shape: MagvitArchitecture) -> None:
        super().__init__()
        before = shape.decoder.channels[-1]
        self.post_quant_conv = nn.Conv2d(shape.bits, shape.bits, 1)
        self.conv_in = nn.Conv2d(shape.bits, before, 3, padding=1)
        self.mid = Middle(before, shape.groups)
        parts = []
        for level in reversed(range(len(shape.decoder.channels))):
            channels, blocks = shape.decoder.channels[level], shape.decoder.blocks[level]
            part = nn.Module()
            part.block = nn.ModuleList(
                Residual(before if not block else channels, channels, shape.groups) for block in range(blocks)
            )
            part.upsample = Upsample(channels) if level else nn.Identity()
            parts.append(part)
            before = channels
        self.up = nn.ModuleList(reversed(parts))
        self.norm_out = nn.GroupNorm(shape.groups, before, eps=1e-6)
        self.conv_out = nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, channels: Tensor) -> Tensor:
        """Images (count, 3, height, width)."""
        found = self.mid(self.conv_in(self.post_quant_conv(channels)))
        for part in reversed(self.up):
            for block in part.block:
                found = block(found)
            found = part.upsample(found)
        return self.conv_out(functional.silu(self.norm_out(found)))


class Middle(nn.Module):  # type: ignore[misc]
    """Attention between two residual blocks, at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels, groups)
        self.attn_1 = Attention(channels, groups)
        self.block_2 = Residual(channels, channels, groups)

    def forward(self, images: Tensor) -> Tensor:
        """The same shape."""
        return self.block_2(self.attn_1(self.block_1(images)))


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=1e-6)
        self.conv1 = nn.Conv2d(before, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, channels, 1) if before != channels else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(count, channels, height, width)."""
        inner = self.conv1(functional.silu(self.norm1(images)))
        return self.nin_shortcut(images) + self.conv2(functional.silu(self.norm2(inner)))


class Attention(nn.Module):  # type: ignore[misc]
    """Attention of one head between all places of an image."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        """The same shape."""
        inner = self.norm(images)
        query, key, value = (part(inner).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return images + self.proj_out(seen.transpose(1, 2).reshape(images.shape))


class Downsample(nn.Module):  # type: ignore[misc]
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """(count, channels, height / 2, width / 2); padded to the right and below only."""
        return self.conv(functional.pad(images, (0, 1, 0, 1)))


class Upsample(nn.Module):  # type: ignore[misc]
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(count, channels, 2 height, 2 width)."""
        return self.conv(functional.interpolate(images, scale_factor=2.0, mode="nearest"))
