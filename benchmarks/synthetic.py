"""Writes checkpoints with the real shapes and made-up weights, without holding a model in memory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sanac.core import json_files
from sanac.core.family.architecture import Architecture
from sanac.core.write.safetensors_writer import DIFFUSERS_STEM, shard_names
from sanac.nn.silence_libraries import quiet

_POOL = 1 << 26
SANA_4_8B = Architecture(
    blocks=60,
    width=2240,
    hidden=5600,
    cross_width=2240,
    in_channels=32,
    out_channels=32,
    caption_channels=2304,
    patch_size=1,
    qk_norm=True,
    guidance=False,
    attention_bias=False,
)
_SANA_VAE = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "conv",
    "scaling_factor": 0.41407,
}
_INDEX = {
    "_class_name": "SanaPipeline",
    "_diffusers_version": "0.38.0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}


def write_transformer(
    folder: Path, architecture: Architecture = SANA_4_8B, *, shards: int = 2, sparse: bool = False
) -> int:
    """A bf16 transformer folder that diffusers loads; returns its bytes. About a minute for 9.4 GB.

    A `sparse` one holds nothing but zeros and takes no space, where the file system can.
    """
    folder.mkdir(parents=True)
    _write_tensors(folder, architecture.tensors(), DIFFUSERS_STEM, shards, sparse=sparse)
    (folder / "config.json").write_bytes(json_files.pretty(architecture.config()))
    return sum(path.stat().st_size for path in folder.iterdir())


def write_pipeline(
    folder: Path, architecture: Architecture = SANA_4_8B, *, sample_size: int = 32, sparse: bool = False
) -> int:
    """A bf16 pipeline of the full shape: this transformer, Gemma-2-2B, DC-AE, a tokenizer of few words; its bytes."""
    with quiet():
        from diffusers import AutoencoderDC
        from transformers import Gemma2Config, Gemma2Model

    from sanac.tiny.build import scheduler, tokenizer

    write_transformer(folder / "transformer", architecture, sparse=sparse)
    config = architecture.config() | {"sample_size": sample_size}
    (folder / "transformer" / "config.json").write_bytes(json_files.pretty(config))
    with torch.device("meta"):
        encoder = Gemma2Model(Gemma2Config(architectures=["Gemma2Model"], dtype="bfloat16"))
        vae = AutoencoderDC(**_SANA_VAE)
    for name, module, stem in (("text_encoder", encoder, "model"), ("vae", vae, DIFFUSERS_STEM)):
        (folder / name).mkdir()
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        _write_tensors(folder / name, shapes, stem, 1, sparse=sparse)
    encoder.config.to_json_file(folder / "text_encoder" / "config.json")
    vae.save_config(folder / "vae")
    tokenizer().save_pretrained(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_bytes(json_files.pretty(_INDEX))
    file = folder / "tokenizer" / "tokenizer_config.json"  # transformers 5 writes a class that 4 doesn't know
    words = json_files.read_object(file) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_bytes(json_files.pretty(words))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_tensors(
    folder: Path, tensors: Mapping[str, tuple[int, ...]], stem: str, shards: int, *, sparse: bool = False
) -> None:
    """Weights of these shapes: normal with a deviation of 0.02, which keeps hidden states of wide layers finite."""
    normal = np.random.default_rng(0).standard_normal(_POOL // 2, dtype=np.float32) * 0.02
    pool = (normal.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # bf16 is the upper half of fp32
    listed = list(tensors.items())
    per_shard = -(-len(listed) // shards)
    weight_map: dict[str, str] = {}
    for index, name in enumerate(shard_names(shards, stem)):
        part = listed[index * per_shard : (index + 1) * per_shard]
        _write_shard(folder / name, dict(part), b"" if sparse else pool)
        weight_map |= {tensor: name for tensor, _ in part}
    if shards > 1:
        index_file = folder / f"{stem}.safetensors.index.json"
        index_file.write_bytes(json_files.pretty({"metadata": {}, "weight_map": weight_map}))


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], pool: bytes) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        end = position + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    head = json_files.canonical(entries)
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        if not pool:
            file.truncate(8 + len(head) + position)
            return
        while position:
            position -= file.write(pool[: min(position, _POOL)])
