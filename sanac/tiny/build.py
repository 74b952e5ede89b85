"""The architecture of sanac:tiny: the classes of the large SANA pipelines, with smaller sizes.

`python -m sanac.tiny.build DIR --blocks 12` writes an untrained pipeline that stock diffusers loads and runs.
"""

import json
from pathlib import Path

import click
import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from sanac.shapes.words import VOCABULARY

LATENT_CHANNELS = 16
IMAGE_SIZE = 64
TEXT_WIDTH = 64


def transformer(blocks: int, *, width: int = 96, qk_norm: bool = True) -> SanaTransformer2DModel:
    """A transformer of SANA-1.5's topology: head dimension 32, GLUMBConv ratio 2.5, patch size 1."""
    return SanaTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=width // 32,
        attention_head_dim=32,
        num_layers=blocks,
        num_cross_attention_heads=width // 32,
        cross_attention_head_dim=32,
        cross_attention_dim=width,
        caption_channels=TEXT_WIDTH,
        mlp_ratio=2.5,
        sample_size=16,
        patch_size=1,
        qk_norm="rms_norm_across_heads" if qk_norm else None,
    )


def autoencoder() -> AutoencoderDC:
    """An autoencoder that downsamples by 16, which the pipeline takes for 128.

    Stages without layers don't downsample, but the pipeline counts them. Its smallest images, which it takes for 512
    pixels wide, thus have 4 x 4 latents and 64 pixels.
    """
    channels, layers = (16, 16, 16, 16, 16, 32, 64, 128), (0, 0, 0, 0, 1, 1, 1, 1)
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((),) * len(channels),
        decoder_qkv_multiscales=((),) * len(channels),
    )


def text_encoder(vocabulary: int) -> Gemma2Model:
    """A Gemma-2 text encoder with two layers."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            query_pre_attn_scalar=32,
            max_position_embeddings=512,
        )
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer. `<bos>` starts every sequence, so that an empty prompt has no all-zero mask.

    The pipeline prepends an instruction for large language models that ends in "User Prompt: ". The normalizer removes
    it, because its words are not in the vocabulary.
    """
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *VOCABULARY])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    instruction = Regex(r"(?m)\Agiven a user prompt, .*user prompt:")
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(instruction, "")])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def scheduler() -> DPMSolverMultistepScheduler:
    """SANA's default scheduler."""
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )


def build(blocks: int, *, seed: int = 0) -> SanaPipeline:
    """The complete pipeline with random weights."""
    torch.manual_seed(seed)
    words = tokenizer()
    return SanaPipeline(
        tokenizer=words,
        text_encoder=text_encoder(len(words)).eval(),
        vae=autoencoder().eval(),
        transformer=transformer(blocks).eval(),
        scheduler=scheduler(),
    )


def save(pipeline: SanaPipeline, folder: Path, *, shard_size: str = "10GB") -> None:
    """Save the pipeline with the tokenizer class name that all supported transformers versions load.

    transformers 5 writes a name that older versions don't know. Paths of loaded components are removed.
    """
    pipeline.save_pretrained(folder, max_shard_size=shard_size)
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")
    for path in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        config = json.loads(path.read_text())
        if "tokenizer" in config:
            config["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
        if "tokenizer_class" in config:
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2) + "\n")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--blocks", type=click.IntRange(1), default=12, show_default=True, help="Depth of the transformer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
def main(folder: Path, blocks: int, seed: int) -> None:
    """Write an untrained small SANA pipeline to FOLDER."""
    save(build(blocks, seed=seed), folder)
    click.echo(f"wrote {folder}: {blocks} blocks, untrained")


if __name__ == "__main__":
    main()
