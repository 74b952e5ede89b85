"""The sizes of sanac:tokens, its text tokenizer, and how it is saved: the classes of Show-o with smaller sizes."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from sanac.core.family.magvit import Coder, MagvitArchitecture
from sanac.core.family.showo import ShowoArchitecture
from sanac.shapes.words import VOCABULARY
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.tokens.transformer import MaskedTokenTransformer

IMAGE_SIZE = 64
SPECIALS = ("<eos>", "<bos>", "<unk>")
EOS, BOS = 0, 1
TEXT_LENGTH = 20  # tokens of the longest caption, with <bos> and <eos>


def tokenizer_architecture() -> MagvitArchitecture:
    """An image tokenizer of 512 codes that shrinks an image of 64 x 64 pixels to 8 x 8 tokens."""
    coder = Coder((16, 32, 32, 48), (1, 1, 1, 1))
    return MagvitArchitecture(bits=9, encoder=coder, decoder=coder, stem=16, groups=8)


def architecture() -> ShowoArchitecture:
    """A transformer of seven layers."""
    return ShowoArchitecture(
        layers=7,
        width=128,
        heads=4,
        inner=512,
        words=len(SPECIALS) + len(VOCABULARY),
        codes=tokenizer_architecture().codes,
        image_tokens=64,
        text_length=TEXT_LENGTH,
    )


def text_tokenizer() -> Tokenizer:
    """A word-level tokenizer of the shapes world's vocabulary."""
    words = {word: index for index, word in enumerate([*SPECIALS, *VOCABULARY])}
    found = Tokenizer(models.WordLevel(words, unk_token=SPECIALS[2]))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return found


def save(folder: Path, transformer: MaskedTokenTransformer, images: ImageTokenizer) -> None:
    """Save the three parts: weights in bf16, as Show-o's checkpoints name them."""
    for name, config in (
        ("transformer", transformer.architecture.config()),
        ("image_tokenizer", images.architecture.config()),
        ("tokenizer", {"bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS]}),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = "tokenizer_config.json" if name == "tokenizer" else "config.json"
        (folder / name / file).write_text(json.dumps(config, indent=2) + "\n")
    text_tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    for name, module in (("transformer", transformer), ("image_tokenizer", images)):
        save_file(_half(module), folder / name / "model.safetensors", metadata={"format": "pt"})


def _half(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in module.named_parameters()}
