"""Our forward is bitwise diffusers', in every variant of the architecture."""

import pytest
import torch
from diffusers import SanaTransformer2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from sanac.nn.blocks.block import Geometry
from sanac.nn.blocks.embed_head import sinusoidal
from sanac.nn.blocks.forward import forward

BASE = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_layers": 3,
    "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 64,
    "caption_channels": 24,
    "sample_size": 16,
}
GEOMETRY = Geometry.of(BASE)


def _model(dtype: torch.dtype = torch.float32, **options) -> SanaTransformer2DModel:
    torch.manual_seed(0)
    model = SanaTransformer2DModel(**BASE | options).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.to(dtype)


def _inputs(dtype: torch.dtype = torch.float32, side: tuple[int, int] = (6, 8)) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    return {
        "hidden_states": torch.randn(3, 4, *side, dtype=dtype),
        "encoder_hidden_states": torch.randn(3, 7, 24, dtype=dtype),
        "timestep": torch.tensor([3.0, 500.5, 999.0]),
        "encoder_attention_mask": mask,
    }


def _ours(model: SanaTransformer2DModel, inputs: dict[str, Tensor], **options) -> Tensor:
    return forward(
        model.state_dict(),
        GEOMETRY,
        inputs["hidden_states"],
        inputs["encoder_hidden_states"],
        inputs["timestep"],
        inputs.get("encoder_attention_mask"),
        **options,
    )


@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_it_is_bitwise_diffusers(dtype: torch.dtype, qk_norm: str | None) -> None:
    model, inputs = _model(dtype, qk_norm=qk_norm), _inputs(dtype)
    assert torch.equal(_ours(model, inputs), model(**inputs).sample)


@torch.no_grad()
def test_without_a_mask() -> None:
    model, inputs = _model(), _inputs()
    del inputs["encoder_attention_mask"]
    assert torch.equal(_ours(model, inputs), model(**inputs).sample)


@torch.no_grad()
def test_patches_of_two() -> None:
    model, inputs = _model(patch_size=2), _inputs()
    assert torch.equal(_ours(model, inputs), model(**inputs).sample)


@torch.no_grad()
def test_attention_with_biases() -> None:
    model, inputs = _model(attention_bias=True), _inputs()
    assert torch.equal(_ours(model, inputs), model(**inputs).sample)


@torch.no_grad()
def test_distilled_guidance() -> None:
    model, inputs = _model(guidance_embeds=True, qk_norm="rms_norm_across_heads"), _inputs()
    guidance = torch.tensor([0.45, 0.1, 0.2])
    assert torch.equal(_ours(model, inputs, guidance=guidance), model(**inputs, guidance=guidance).sample)


@torch.no_grad()
def test_positions_of_large_pictures() -> None:
    model, inputs = _model(interpolation_scale=1.0), _inputs(side=(16, 16))
    assert torch.equal(_ours(model, inputs, positions=model.patch_embed.pos_embed), model(**inputs).sample)


@torch.no_grad()
def test_heads_that_ask_for_nothing_give_no_nan() -> None:
    """All queries of a head below zero: the divisor is the epsilon alone."""
    model, inputs = _model(attention_bias=True), _inputs()
    model.transformer_blocks[1].attn1.to_q.bias.data[:32] = -1e6
    found = _ours(model, inputs)
    assert torch.isfinite(found).all()
    assert torch.equal(found, model(**inputs).sample)


@torch.no_grad()
def test_observers_see_the_stream() -> None:
    model, inputs = _model(), _inputs()
    hooked: list[tuple[Tensor, Tensor]] = []
    for part in model.transformer_blocks:
        part.register_forward_hook(lambda _, given, result: hooked.append((given[0], result)))
    model(**inputs)
    seen: list[tuple[int, Tensor, Tensor]] = []
    _ours(model, inputs, observe=lambda index, before, after: seen.append((index, before, after)))
    assert [index for index, _, _ in seen] == [0, 1, 2]
    for (_, before, after), (given, result) in zip(seen, hooked, strict=True):
        assert torch.equal(before, given)
        assert torch.equal(after, result)


def test_timesteps_are_embedded_as_diffusers_does() -> None:
    times = torch.tensor([0.0, 0.5, 999.0])
    expected = get_timestep_embedding(times, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(sinusoidal(times), expected)


def test_gradients_flow() -> None:
    model, inputs = _model(), _inputs()
    tensors = {name: tensor.requires_grad_() for name, tensor in model.state_dict(keep_vars=True).items()}
    forward(tensors, GEOMETRY, *list(inputs.values())[:3]).square().mean().backward()
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in tensors.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_is_diffusers_there(dtype: torch.dtype) -> None:
    model = _model(dtype).cuda()
    inputs = {name: value.cuda() for name, value in _inputs(dtype).items()}
    with torch.no_grad():
        expected = model(**inputs).sample
        assert torch.allclose(_ours(model, inputs), expected, atol=1e-6 if dtype == torch.float32 else 0)
