"""A token generator on disk, opened without loading weights: Show-o's transformer, image tokenizer, text tokenizer.

It is one folder with these three inside, or a folder or hub id of the transformer alone; the two others are then taken
from the hub's cache, where Show-o's own code takes them from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Component, Model, identity_of, open_model
from sanac.core.checkpoint.locate import BUNDLED, Located, inside, locate
from sanac.core.checkpoint.weights import Weights, open_file, open_folder, open_pickled
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.family import magvit, showo
from sanac.core.family.magvit import MagvitArchitecture, recognise_magvit
from sanac.core.family.showo import ShowoArchitecture, is_showo, recognise_showo

TRANSFORMER, IMAGES, WORDS = "transformer", "image_tokenizer", "tokenizer"  # the folders of a whole generator
ELSEWHERE = {IMAGES: "showlab/magvitv2", WORDS: "microsoft/phi-1_5"}  # where Show-o takes what its folder lacks
_TITLES = {IMAGES: "image tokenizer", WORDS: "text tokenizer"}
_PICKLED = "pytorch_model.bin"


@dataclass(frozen=True)
class TokenModel:
    """An opened token generator."""

    located: Located
    transformer: Component
    image_tokenizer: Component
    text_tokenizer: Component

    kind = "token generator"
    title = "Show-o"
    manifest = None  # sanac makes no artifacts of these
    schedule = None

    @cached_property
    def architecture(self) -> ShowoArchitecture:
        """The transformer's architecture, derived from and checked against all tensors and config.json."""
        part = self.transformer
        return recognise_showo(_weights(part).tensors, part.config, str(part.folder))

    @cached_property
    def image_architecture(self) -> MagvitArchitecture:
        """The image tokenizer's architecture; InvalidInput if its codebook isn't the one that the transformer knows."""
        part = self.image_tokenizer
        found = recognise_magvit(_weights(part).tensors, part.config, str(part.folder))
        if found.codes != self.architecture.codes:
            raise InvalidInput(
                f"{self.located.name} and its image tokenizer don't fit",
                why=f"the transformer knows {self.architecture.codes} codes, {part.folder} has {found.codes}",
                hint="use the image tokenizer that the transformer was trained with",
            )
        return found

    @cached_property
    def edges(self) -> tuple[str, str]:
        """The text tokenizer's words for the begin and the end of a text; InvalidInput if its vocabulary differs."""
        file = self.text_tokenizer.folder / "tokenizer.json"
        tokens = _vocabulary(json_files.read_object(file), str(file))
        if (count := max(tokens.values(), default=-1) + 1) != self.architecture.words:
            raise InvalidInput(
                f"{self.located.name} and its text tokenizer don't fit",
                why=f"the transformer knows {self.architecture.words} words, {file} has {count}",
                hint="use the tokenizer that the transformer was trained with",
            )
        found = [_content(self.text_tokenizer.config.get(name)) for name in ("bos_token", "eos_token")]
        for name, word in zip(("bos_token", "eos_token"), found, strict=True):
            if word not in tokens:
                raise InvalidInput(f"{file} doesn't have the {name} {word!r}", why="tokenizer_config.json names it")
        return found[0], found[1]

    @property
    def image_side(self) -> int:
        """Pixels of an image's side."""
        return self.architecture.side * self.image_architecture.shrinkage

    @property
    def components(self) -> tuple[Component, ...]:
        """All components, the transformer first."""
        return (self.transformer, self.image_tokenizer, self.text_tokenizer)

    def check(self) -> None:
        """InvalidInput unless all three fit each other."""
        _ = self.image_architecture, self.edges

    def identity(self) -> str:
        """One digest of its files."""
        full = self.located.name in BUNDLED
        return json_files.key_of(["tokens", *([one.name, identity_of(one, full_hash=full)] for one in self.components)])


AnyModel = Model | TokenModel


def open_any_model(located: Located) -> AnyModel:
    """Open a located model: SANA, or a token generator."""
    if not located.path.is_dir():
        return open_model(located)
    for folder in (located.path, located.path / TRANSFORMER):
        config = folder / "config.json"
        if config.is_file() and is_showo(json_files.read_object(inside(located.boundary, config), constants=True)):
            return _open(located, folder)
    return open_model(located)


def _open(located: Located, folder: Path) -> TokenModel:
    whole = folder != located.path
    places = {name: located.path / name for name in ELSEWHERE} if whole else {}
    for name, place in places.items():
        if not place.is_dir():
            raise InvalidInput(f"the folder {place} is missing", why=f"a token generator needs its {_TITLES[name]}")
    found = {name: (place, located.boundary) for name, place in places.items()} if whole else _elsewhere(located)
    images, words = (found[name] for name in (IMAGES, WORDS))
    return TokenModel(
        located,
        _component(TRANSFORMER, showo.CLASS, folder, located.boundary),
        _component(IMAGES, magvit.CLASS, *images),
        _text_tokenizer(*words),
    )


def _elsewhere(located: Located) -> dict[str, tuple[Path, Path]]:
    """(folder, boundary) of what the folder of a transformer lacks, in the hub's cache."""
    found = {}
    for name, repository in ELSEWHERE.items():
        try:
            one = locate(repository)
        except MissingResource as error:
            raise MissingResource(
                f"the {_TITLES[name]} of {located.name} is not on this machine",
                why=f"Show-o uses {repository}",
                hint=f"hf download {repository}   (or put it into a folder {name} beside a folder {TRANSFORMER})",
            ) from error
        found[name] = (one.path, one.boundary)
    return found


def _component(name: str, class_name: str, folder: Path, boundary: Path) -> Component:
    config = inside(boundary, folder / "config.json")
    weights = _open_weights(folder, boundary)
    return Component(
        name, class_name, folder, (config, *weights.files), weights, json_files.read_object(config, constants=True)
    )


def _open_weights(folder: Path, boundary: Path) -> Weights:
    """The weights of a folder: as safetensors, else as torch's own file, which is read without running it."""
    found = open_folder(folder, boundary)
    if found is not None:
        return found
    for name, opener in (("pytorch_model.safetensors", open_file), (_PICKLED, open_pickled)):
        if (folder / name).is_file():
            return opener(folder / name, boundary)
    raise InvalidInput(f"{folder} has no weights", why=f"it has neither .safetensors files nor {_PICKLED}")


def _text_tokenizer(folder: Path, boundary: Path) -> Component:
    files = tuple(inside(boundary, folder / name) for name in ("tokenizer.json", "tokenizer_config.json"))
    config = json_files.read_object(files[1], constants=True)
    return Component(WORDS, "Tokenizer", folder, files, None, config)


def _weights(part: Component) -> Weights:
    assert part.weights is not None
    return part.weights


def _vocabulary(value: Mapping[str, Any], where: str) -> dict[str, int]:
    """The tokens of a tokenizer.json with their numbers."""
    model, added = value.get("model"), value.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pairs = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    pairs += [(one.get("content"), one.get("id")) for one in added if isinstance(one, dict)] if added else []
    if not pairs or not all(isinstance(word, str) and type(number) is int for word, number in pairs):
        raise InvalidInput(f"{where} is not a tokenizer", why="it has no vocabulary of words and numbers")
    return dict(pairs)


def _content(value: object) -> str:
    """A special token, written as a word or as an object."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""
