"""Show-o's transformer: the tensors of its checkpoints, and the vocabulary that text, markers and image codes share."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import TensorRef

CLASS = "Showo"
MARKERS = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")  # behind the words, in this order
TEXT_LENGTH = 128  # tokens of a prompt that Show-o reads; its config.json doesn't say so
_LAYER = re.compile(r"showo\.model\.layers\.(\d+)\.")
_IGNORED = re.compile(r"mm_projector\.|.*\.rotary_emb\.inv_freq$")  # of understanding images; recomputed
_LARGEST = 1 << 24  # words or codes of a vocabulary: more is a broken file
_POSITIONS = 2048  # that Phi has: text, an image and its three markers


@dataclass(frozen=True, slots=True)
class ShowoArchitecture:
    """Sizes of a Show-o transformer: Phi, with normalised queries and keys."""

    layers: int
    width: int
    heads: int
    inner: int  # width inside the feed-forward layers
    words: int  # tokens of the text tokenizer
    codes: int  # entries of the image tokenizer's codebook
    image_tokens: int
    text_length: int = TEXT_LENGTH

    @property
    def vocabulary(self) -> int:
        """Words, markers, codes, and the mask at the end."""
        return self.first_code + self.codes + 1

    @property
    def first_code(self) -> int:
        """Token of the first image code."""
        return self.words + len(MARKERS)

    @property
    def mask(self) -> int:
        """Token of an image position that isn't known yet."""
        return self.vocabulary - 1

    @property
    def side(self) -> int:
        """Image tokens in a row of the image."""
        return math.isqrt(self.image_tokens)

    def marker(self, name: str) -> int:
        """Token of a marker: pad, soi, eoi, t2i."""
        return self.words + MARKERS.index(name)

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of a checkpoint, by name."""
        found: dict[str, tuple[int, ...]] = {"showo.model.embed_tokens.weight": (self.vocabulary, self.width)}
        for layer in range(self.layers):
            found |= {f"showo.model.layers.{layer}.{name}": shape for name, shape in self._layer()}
        found |= dict(_affine("showo.model.final_layernorm", self.width))
        return found | dict(_linear("showo.lm_head", self.vocabulary, self.width))

    def _layer(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            yield from _linear(f"self_attn.{name}", self.width, self.width)
        for name in ("q_layernorm", "k_layernorm"):
            yield from _affine(f"self_attn.{name}", self.width // self.heads)
        yield from _linear("mlp.fc1", self.inner, self.width)
        yield from _linear("mlp.fc2", self.width, self.inner)
        yield from _affine("input_layernorm", self.width)

    def config(self) -> dict[str, Any]:
        """The content of config.json, with the keys of Show-o's own."""
        return {
            "_class_name": CLASS,
            "codebook_size": self.codes,
            "llm_vocab_size": self.words,
            "num_vq_tokens": self.image_tokens,
            "text_length": self.text_length,
            "vocab_size": self.vocabulary,
            "w_clip_vit": False,
        }


def _linear(name: str, out: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, inputs)
    yield f"{name}.bias", (out,)


def _affine(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def is_showo(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Show-o transformer."""
    return config.get("_class_name") == CLASS or {"llm_vocab_size", "num_vq_tokens"} <= config.keys()


def recognise_showo(tensors: Mapping[str, TensorRef], config: Mapping[str, Any], where: str) -> ShowoArchitecture:
    """The architecture, derived from all tensors and config.json and checked against both; InvalidInput otherwise."""
    words, codes, image = (_number(config, key, where) for key in ("llm_vocab_size", "codebook_size", "num_vq_tokens"))
    length = _number(config, "text_length", where) if "text_length" in config else TEXT_LENGTH
    shapes = {name: ref.shape for name, ref in tensors.items()}
    width = _size(shapes, "showo.model.embed_tokens.weight", 1)
    head = _size(shapes, "showo.model.layers.0.self_attn.q_layernorm.weight", 0)
    inner = _size(shapes, "showo.model.layers.0.mlp.fc1.weight", 0)
    if not (width and head and inner) or width % head:
        raise InvalidInput(
            f"{where} is not a Show-o transformer",
            why="it lacks showo.model.embed_tokens, or layer 0 of showo.model.layers with query and key norms",
        )
    layers = 1 + max(int(match[1]) for name in shapes if (match := _LAYER.match(name)))
    if layers > len(shapes):
        raise InvalidInput(f"{where} is damaged", why=f"a tensor names layer {layers - 1} of {len(shapes)} tensors")
    found = ShowoArchitecture(layers, width, width // head, inner, words, codes, image, length)
    problems = list(_config_problems(found, config))
    problems += tensor_problems(shapes, found.tensors)
    if problems:
        raise InvalidInput(f"{where} doesn't fit Show-o's architecture", why=problems[0], problems=problems)
    return found


def tensor_problems(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Missing, misshapen and unknown tensors, in words."""
    found = [f"{name} is missing" for name in expected if name not in shapes]
    found += [
        f"{name} is {'x'.join(map(str, shapes[name]))}, not {'x'.join(map(str, shape))}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return found + [f"{name} is unknown" for name in shapes if name not in expected and not _IGNORED.match(name)]


def _config_problems(found: ShowoArchitecture, config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("vocab_size", found.vocabulary) != found.vocabulary:
        yield (
            f"config.json says a vocabulary of {config['vocab_size']}, but {found.words} words, {len(MARKERS)} "
            f"markers, {found.codes} codes and the mask are {found.vocabulary}"
        )
    if found.side**2 != found.image_tokens:
        yield f"num_vq_tokens is {found.image_tokens}, which is not a square"
    if found.text_length + found.image_tokens + 3 > _POSITIONS:
        yield f"{found.text_length} tokens of text and {found.image_tokens} of an image exceed {_POSITIONS} positions"


def _number(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise InvalidInput(f"{where}: config.json doesn't say {key}", why=f"it is {value!r}, not a number above 0")
    return value


def _size(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else 0
