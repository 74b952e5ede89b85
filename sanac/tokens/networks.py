"""Opens the networks of a token generator from its files, which are read and checked tensor by tensor."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch
from tokenizers import Tokenizer
from torch import nn

from sanac.core.artifact.model import Component
from sanac.core.artifact.token_model import TokenModel
from sanac.core.errors import InvalidInput, MissingResource
from sanac.nn.device import pick_device
from sanac.nn.silence_libraries import quiet
from sanac.nn.streaming import read_tensor
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.tokens.text import TextTokens
from sanac.tokens.transformer import MaskedTokenTransformer


@dataclass(frozen=True)
class TokenNetworks:
    """What a token generator computes with, on one device."""

    transformer: MaskedTokenTransformer
    images: ImageTokenizer
    text: TextTokens
    name: str
    device: str


def open_networks(model: TokenModel, device: str | None = None, dtype: torch.dtype | None = None) -> TokenNetworks:
    """The networks of a token generator on a device; runs no code or pickle from its folder and downloads nothing.

    `dtype` is the transformer's: bf16 on GPUs by default.
    """
    model.check()
    where = pick_device(device)
    with quiet():
        from accelerate import init_empty_weights
    with init_empty_weights(include_buffers=False):
        transformer = MaskedTokenTransformer(model.architecture)
        images = ImageTokenizer(model.image_architecture)
    dtype = dtype or (torch.float32 if where == "cpu" else torch.bfloat16)
    try:
        _fill(transformer, model.transformer, where, dtype)
        _fill(images, model.image_tokenizer, where, torch.float32)
        transformer.to(where)  # buffers; the weights are there
        images.to(where)
    except torch.OutOfMemoryError as error:
        raise MissingResource(f"{model.located.name} doesn't fit on {where}", hint="--device cpu") from error
    return TokenNetworks(transformer, images, open_text(model), model.located.name, where)


def open_text(model: TokenModel) -> TextTokens:
    """The text tokenizer of a token generator."""
    file = model.text_tokenizer.folder / "tokenizer.json"
    with _Readable(str(file)):
        tokenizer = Tokenizer.from_file(str(file))
        bos, eos = (tokenizer.token_to_id(word) for word in model.edges)
    assert bos is not None
    assert eos is not None
    return TextTokens(tokenizer, model.architecture, bos, eos)


class _Readable(AbstractContextManager[None]):
    """Turns what tokenizers raises at a broken file into InvalidInput: a bare Exception, or a panic of Rust."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise InvalidInput(f"{self.where} is not a tokenizer", why=str(error)[:300]) from error


def _fill(module: nn.Module, part: Component, device: str, dtype: torch.dtype) -> None:
    """Give a module its weights from the checkpoint, one by one, in `dtype`; InvalidInput for NaN."""
    assert part.weights is not None
    wanted = dict(module.named_parameters())
    found = {}
    for name in wanted:
        value = read_tensor(part.weights.tensors[name], torch.device(device), dtype)
        if not torch.isfinite(value).all():
            raise InvalidInput(f"{part.folder}: {name} has NaN or infinite values")
        found[name] = value
    module.load_state_dict(found, strict=False, assign=True)
    module.eval().requires_grad_(requires_grad=False)
