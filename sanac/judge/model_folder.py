"""The folder of a judge: found on this machine or in the hub's cache, and checked before transformers reads it.

No code of a folder is run and nothing is unpickled: only known classes, weights as safetensors, no Python files, no
`auto_map`, no adapters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core import json_files
from sanac.core.checkpoint.locate import inside, locate
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.file_copy import digest_file

if TYPE_CHECKING:
    import torch

YES_NO = {
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionProcessor"),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
}
CONTRASTIVE = {"clip": ("CLIPModel", "CLIPProcessor")}
_ACTED_ON = ("adapter_config.json", "adapter_model.safetensors", "modeling_config.json")
_FAILURES = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class JudgeFolder:
    """A checked folder of a judge."""

    path: Path
    name: str
    kind: str  # model_type of its config

    @property
    def identity(self) -> str:
        """Name, and a digest of its configuration and of the sizes and headers of its weights."""
        small = [[path.name, digest_file(path)] for path in sorted(self.path.glob("*.json"))]
        weights = [[path.name, path.stat().st_size] for path in sorted(self.path.glob("*.safetensors"))]
        return f"{self.name}@{json_files.key_of([small, weights])[:12]}"

    def load(self, kind: Any, dtype: "torch.dtype") -> Any:
        """The model, as a class of transformers."""
        try:
            return kind.from_pretrained(self.path, dtype=dtype, local_files_only=True, use_safetensors=True)
        except _FAILURES as error:
            raise self._unusable(error) from error

    def load_processor(self, kind: Any) -> Any:
        """The processor for images and text, as a class of transformers.

        Its part for videos is left out: it needs torchvision, and nobody here shows it a video.
        """
        parts = [name for name in kind.get_attributes() if name in {"image_processor", "tokenizer"}]
        changed = {"get_attributes": classmethod(lambda _: parts), "video_processor": None}
        stills: Any = type(kind.__name__, (kind,), changed)
        try:
            return stills.from_pretrained(self.path, local_files_only=True)
        except _FAILURES as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> InvalidInput:
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return InvalidInput(f"transformers can't open the judge {self.name}", why=why)


def open_judge(word: str, kinds: Mapping[str, tuple[str, str]]) -> JudgeFolder:
    """The checked folder of a judge whose model type is one of `kinds`; it is never downloaded."""
    try:
        located = locate(word)
    except MissingResource as error:
        raise MissingResource(f"the judge {word} is not on this machine", why=error.why, hint=error.hint) from error
    path = located.path
    if not path.is_dir():
        raise InvalidInput(
            f"{word} is not a folder", hint="a judge is a folder that transformers' save_pretrained wrote"
        )
    problems = [f"it holds {name}" for name in _ACTED_ON if (path / name).exists()]
    problems += [f"it holds the program {file.name}" for file in sorted(path.glob("*.py"))]
    config = json_files.read_object(inside(located.boundary, path / "config.json"))
    for file in sorted(path.glob("*.json")):
        inside(located.boundary, file)
        problems += [f"{file.name} has an auto_map" for _ in range(_names_code(file))]
    kind = config.get("model_type")
    if kind not in kinds:
        problems.append(f"its model_type is {kind!r}, not one of {', '.join(kinds)}")
    if not any(path.glob("*.safetensors")):
        problems.append("it has no .safetensors weights")
    if problems:
        raise InvalidInput(f"the judge {located.name} is not loaded", why=problems[0], problems=problems)
    return JudgeFolder(path, located.name, str(kind))


def judge_folder(word: str) -> JudgeFolder | None:
    """The checked folder behind a word of `--verifier`; None for shapes, which has none. No weights are loaded."""
    kind, _, model = word.partition(":")
    return None if kind == "shapes" else open_judge(model, CONTRASTIVE if kind == "clip" else YES_NO)


def _names_code(file: Path) -> bool:
    """Whether a JSON file names classes to import from the folder."""
    if file.stat().st_size > 20_000_000:  # a tokenizer's vocabulary: not a config
        return False
    value = json_files.parse(file.read_bytes(), str(file), constants=True)
    return isinstance(value, dict) and "auto_map" in value
