"""Lookup-free quantization: a code is the signs of channels, the first as the highest bit."""

from pathlib import Path

import pytest
import torch

from sanac.core.family.magvit import Coder, MagvitArchitecture, recognise_magvit
from sanac.core.safetensors_header import TensorRef
from sanac.tokens.image_tokenizer import ImageTokenizer, Signs

REAL = MagvitArchitecture(  # showlab/magvitv2
    13, Coder((128, 256, 256, 512, 512), (4, 3, 4, 3, 4)), Coder((128, 128, 256, 256, 512), (4, 4, 3, 4, 3)), stem=128
)


def refs(shape: MagvitArchitecture) -> dict[str, TensorRef]:
    return {name: TensorRef(name, "F32", size, Path("x"), 0, 0) for name, size in shape.tensors.items()}


def test_a_code_is_a_binary_number() -> None:
    signs = Signs(3)
    channels = torch.tensor([[[[0.5, -0.1]], [[-2.0, -0.1]], [[0.1, 7.0]]]])  # (1, bits, 1 row, 2 columns)
    assert signs.codes(channels).tolist() == [[0b101, 0b001]]
    assert signs.embedding[0b101].tolist() == [1, -1, 1]
    assert signs.codes(signs.channels(torch.arange(8)[None], rows=2)).tolist() == [list(range(8))]


def test_codes_are_read_row_by_row() -> None:
    channels = Signs(4).channels(torch.arange(6)[None], rows=2)
    assert channels.shape == (1, 4, 2, 3)
    assert Signs(4).codes(channels[:, :, 1:]).tolist() == [[3, 4, 5]]


def test_the_tensors_are_those_that_the_architecture_names() -> None:
    shape = MagvitArchitecture(5, Coder((8, 16), (1, 2)), Coder((8, 8), (2, 1)), stem=8, groups=4)
    network = ImageTokenizer(shape)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == shape.tensors
    assert recognise_magvit(refs(shape), {"norm_groups": 4}, "it") == shape


def test_show_os_tokenizer_is_recognised_by_its_tensors() -> None:
    assert recognise_magvit(refs(REAL), {}, "it") == REAL
    names = REAL.tensors
    assert len(names) == 382, "as many as Show-o's own class has"
    assert names["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert names["decoder.up.4.upsample.conv.weight"] == (512, 512, 3, 3)
    assert names["quantize.embedding"] == (8192, 13)
    assert (REAL.codes, REAL.shrinkage) == (8192, 16)


def test_images_keep_their_size() -> None:
    network = ImageTokenizer(MagvitArchitecture(6, Coder((4, 4, 8), (1, 1, 1)), Coder((4, 8, 8), (1, 1, 1)), 4, 2))
    codes = network.encode(torch.randn(2, 3, 16, 24))
    assert codes.shape == (2, 4 * 6)
    assert codes.max() < 64
    assert network.decode(codes, rows=4).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("decoder.conv_out.weight", None, "decoder.conv_out.weight is missing"),
        ("encoder.mid.attn_1.q.weight", (8, 16, 1, 1), "encoder.mid.attn_1.q.weight is 8x16x1x1, not 16x16x1x1"),
        ("encoder.extra", (3,), "encoder.extra is unknown"),
        ("quantize.embedding", (64, 5), "quantize.embedding is 64x5, not 32x5"),
    ],
)
def test_tensors_that_dont_fit_are_named(name: str, change: tuple[int, ...] | None, message: str) -> None:
    from sanac.core.errors import InvalidInput

    shape = MagvitArchitecture(5, Coder((8, 16), (1, 2)), Coder((8, 16), (2, 1)), stem=8, groups=4)
    found = refs(shape)
    found.pop(name, None)
    if change:
        found[name] = TensorRef(name, "F32", change, Path("x"), 0, 0)
    with pytest.raises(InvalidInput) as raised:
        recognise_magvit(found, {"norm_groups": 4}, "it")
    assert message in raised.value.problems
