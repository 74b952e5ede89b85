"""The family table against published counts and against diffusers' own class."""

from pathlib import Path

import pytest
from diffusers import SanaTransformer2DModel

from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture, config_problems, part_of, recognise, split_block, training_note
from sanac.core.safetensors_header import TensorRef


def refs(architecture: Architecture) -> dict[str, TensorRef]:
    return {n: TensorRef(n, "BF16", shape, Path("x"), 0, 0) for n, shape in architecture.tensors().items()}


def sana(blocks: int, width: int = 2240, *, qk_norm: bool = True) -> Architecture:
    return Architecture(
        blocks, width, width * 5 // 2, width, 32, 32, 2304, 1, qk_norm, guidance=False, attention_bias=False
    )


@pytest.mark.parametrize(
    ("architecture", "parameters", "title"),
    [
        (sana(28, 1152, qk_norm=False), 591_747_872, "SANA-1.0 0.6B"),
        (sana(20, qk_norm=False), 1_604_462_752, "SANA-1.0 1.6B"),
        (sana(20), 1_604_641_952, "SANA-1.5 1.6B"),
        (sana(30), 2_383_937_952, "SANA-1.5 2.4B"),
        (sana(40), 3_163_233_952, "SANA-1.5 3.2B"),
        (sana(60), 4_721_825_952, "SANA-1.5 4.8B"),
    ],
)
def test_published_counts(architecture: Architecture, parameters: int, title: str) -> None:
    tensors = refs(architecture)
    assert sum(ref.count for ref in tensors.values()) == parameters
    assert recognise(tensors, "x") == architecture
    assert architecture.title == title


@pytest.mark.parametrize("qk_norm", ["rms_norm_across_heads", None])
@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("patch", [1, 2])
def test_tensors_are_those_of_diffusers(qk_norm: str | None, guidance: bool, blocks: int, patch: int) -> None:
    model = SanaTransformer2DModel(
        in_channels=4, out_channels=6, num_attention_heads=2, attention_head_dim=32, num_layers=blocks,
        num_cross_attention_heads=4, cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=40,
        mlp_ratio=2.5, sample_size=16, patch_size=patch, qk_norm=qk_norm, guidance_embeds=guidance,
    )  # fmt: skip
    real = {n: TensorRef(n, "F32", tuple(t.shape), Path("x"), 0, 0) for n, t in model.state_dict().items()}
    found = recognise(real, "x")
    assert found.tensors() == {name: ref.shape for name, ref in real.items()}
    assert (found.blocks, found.qk_norm, found.guidance) == (blocks, qk_norm is not None, guidance)
    assert config_problems(dict(model.config), found) == []


@pytest.mark.parametrize("architecture", [sana(3), sana(2, 1152, qk_norm=False)])
def test_the_derived_config_builds_the_same_tensors(architecture: Architecture) -> None:
    import torch

    with torch.device("meta"):
        model = SanaTransformer2DModel.from_config(architecture.config())
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == architecture.tensors()


def test_every_misfit_is_named() -> None:
    tensors = refs(sana(3))
    del tensors["proj_out.bias"]
    tensors["stranger"] = TensorRef("stranger", "BF16", (1,), Path("x"), 0, 0)
    odd = "transformer_blocks.1.ff.conv_point.weight"
    tensors[odd] = TensorRef(odd, "I8", (1, 2), Path("x"), 0, 0)
    with pytest.raises(InvalidInput) as caught:
        recognise(tensors, "the model")
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "proj_out.bias is missing" in text
    assert "stranger is not a tensor" in text
    assert f"{odd} has shape [1, 2], expected [2240, 5600, 1, 1]" in text
    assert f"{odd} has dtype I8" in text


def test_gaps_in_block_numbers_are_named() -> None:
    tensors = {name: ref for name, ref in refs(sana(6)).items() if (split_block(name) or (0, ""))[0] not in {2, 4}}
    with pytest.raises(InvalidInput, match="not a complete") as caught:
        recognise(tensors, "x")
    assert "blocks 2, 4 are missing" in caught.value.why


def test_a_billionth_block_costs_nothing() -> None:
    tensors = refs(sana(1))
    for name in list(tensors):
        if split_block(name):
            tensors[name.replace(".0.", ".999999.", 1)] = tensors[name]
    with pytest.raises(InvalidInput, match="not a complete"):
        recognise(tensors, "x")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "no tensors"),
        (["blocks.0.mlp.fc1.weight", "x_embedder.proj.weight"], "PixArt"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["adaln_single.linear.weight"], "PixArt"),
        (["something.else"], "the first is something.else"),
    ],
)
def test_strangers_are_called_by_name(names: list[str], why: str) -> None:
    with pytest.raises(InvalidInput, match="not a SANA transformer") as caught:
        recognise({name: TensorRef(name, "F32", (1,), Path("x"), 0, 4) for name in names}, "x")
    assert why in caught.value.why
    assert caught.value.hint


def test_a_width_nobody_released_needs_its_config() -> None:
    with pytest.raises(InvalidInput, match="width 96"):
        sana(3, 96).config()


def test_a_config_that_lies_is_caught() -> None:
    lies = {
        "num_layers": 5, "qk_norm": None, "in_channels": 32, "sample_size": "32", "num_attention_heads": 7,
        "attention_head_dim": 320, "num_cross_attention_heads": "20", "cross_attention_head_dim": 112,
    }  # fmt: skip
    assert len(config_problems(lies, sana(3))) == 4


def test_parts() -> None:
    parts = {part_of(name) for name in sana(1).tensors()}
    assert parts == {
        "patch embedding", "time embedding", "caption embedding", "self-attention", "cross-attention",
        "feed-forward", "block modulation", "output layer",
    }  # fmt: skip


def test_how_a_checkpoint_was_trained_is_said_where_it_matters() -> None:
    assert training_note(sana(60), ["F16"]) == ""
    assert "run it in fp16" in training_note(sana(20, qk_norm=False), ["F16"])
    assert "run it in its training dtype" in training_note(sana(20, qk_norm=False), ["BF16"])
