"""Graphs of text encoder and autoencoder: what onnxruntime computes with them is what their own classes do."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderDC
from transformers import AutoModel, Gemma2Config, Gemma2Model

from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.weights import open_folder
from sanac.export.components import decoder, encoder, text_encoder
from sanac.export.external_data import link_external_data
from sanac.export.graph import serialized
from sanac.export.tracing import Traced
from tests.export.graphs import checked_graph

ATTENTION = {
    "in_channels": 3,
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16, 32),
    "decoder_block_out_channels": (8, 16, 32),
    "encoder_layers_per_block": (1, 1, 2),
    "decoder_layers_per_block": (1, 1, 2),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,)),
    "decoder_norm_types": "rms_norm",
}


def written(traced: Traced, folder: Path) -> onnxruntime.InferenceSession:
    graph = checked_graph(traced)
    link_external_data(graph, open_folder(folder, folder).tensors, folder)
    (folder / "model.onnx").write_bytes(serialized(graph))
    return opened(folder)


def opened(folder: Path) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    assert (folder / "model.onnx").stat().st_size < 400_000
    return onnxruntime.InferenceSession(folder / "model.onnx")


def apart(found: np.ndarray, wanted: torch.Tensor) -> float:
    assert found.shape == tuple(wanted.shape)
    return float(np.linalg.norm(found - wanted.numpy()) / np.linalg.norm(wanted.numpy()))


@torch.no_grad()
def test_the_text_encoder(tmp_path: Path) -> None:
    """Padded on either side, longer than its window."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 16, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 16, "sliding_window": 5}
    model = Gemma2Model(Gemma2Config(**sizes, **heads)).eval()
    model.save_pretrained(tmp_path)
    session = written(text_encoder(tmp_path, torch.float32), tmp_path)
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    for batch, length, padded in ((1, 1, 0), (2, 7, 3), (4, 30, -12), (1, 300, 100)):
        ids = torch.randint(0, 50, (batch, length))
        mask = torch.ones(batch, length, dtype=torch.int64)
        if padded:
            mask[0, -padded:] = 0
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
        looked = mask.bool()
        assert apart(found[looked.numpy()], wanted[looked]) < 1e-5, (batch, length)


@torch.no_grad()
def test_the_embedded_model_s_text_encoder(tiny_graphs: Path) -> None:
    """Stored in 16 bits, computed with in 32, padded as the pipeline does."""
    model = AutoModel.from_pretrained(locate("sanac:tiny").path / "text_encoder", dtype=torch.float32)
    session = opened(tiny_graphs / "text_encoder")
    ids, mask = torch.randint(0, 20, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    assert apart(found, model(input_ids=ids, attention_mask=mask).last_hidden_state) < 1e-5


@pytest.mark.parametrize("norm", ["rms_norm", "batch_norm"])
@torch.no_grad()
def test_an_autoencoder_with_attention(norm: str, tmp_path: Path) -> None:
    """Of pictures so small that diffusers takes another way through its attention, too."""
    torch.manual_seed(0)
    model = AutoencoderDC(**ATTENTION | {"decoder_norm_types": norm}).eval()
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.data += 0.05 * torch.rand_like(tensor)
    model.save_pretrained(tmp_path)
    halves = [(decoder, 4, 1, lambda x: model.decode(x).sample), (encoder, 3, 4, lambda x: model.encode(x).latent)]
    for trace, channels, step, run in halves[: 2 if norm == "rms_norm" else 1]:  # the encoder knows one norm only
        session = written(trace(model.config, torch.float32), tmp_path)
        for batch, height, width in ((1, 8, 8), (3, 5, 9), (2, 2, 2), (1, 1, 1)):
            given = torch.randn(batch, channels, step * height, step * width)
            found = session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]
            assert apart(found, run(given)) < 1e-5, (batch, height, width)


@torch.no_grad()
def test_the_embedded_model_s_autoencoder(tiny_graphs: Path) -> None:
    model = AutoencoderDC.from_pretrained(locate("sanac:tiny").path / "vae", torch_dtype=torch.float32).eval()
    latents = torch.randn(2, 16, 4, 8)
    session = opened(tiny_graphs / "vae_decoder")
    assert [one.name for one in (*session.get_inputs(), *session.get_outputs())] == ["latent_sample", "sample"]
    picture = session.run(None, {"latent_sample": latents.numpy()})[0]
    assert apart(picture, model.decode(latents).sample) < 1e-5
    session = opened(tiny_graphs / "vae_encoder")
    found = session.run(None, {"sample": picture})[0]
    assert apart(found, model.encode(torch.from_numpy(picture)).latent) < 1e-5


@torch.no_grad()
def test_attention_that_asks_for_nothing(tmp_path: Path) -> None:
    """Divisors of zero in the autoencoder."""
    torch.manual_seed(0)
    model = AutoencoderDC(**ATTENTION).eval()
    for name, parameter in model.named_parameters():
        if ".to_q." in name:
            parameter.data.zero_()
    model.save_pretrained(tmp_path)
    given = torch.randn(1, 4, 8, 8)
    found = written(decoder(model.config, torch.float32), tmp_path).run(None, {"latent_sample": given.numpy()})[0]
    assert np.isfinite(found).all()
    assert apart(found, model.decode(given).sample) < 1e-5
