"""The folder of a judge that sanac trained: config.json and model.safetensors, checked before they are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core import json_files
from sanac.core.checkpoint.locate import TINY, inside, locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import digest_file
from sanac.core.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREVIEW_JUDGE, STATE_JUDGE = "sanac_preview_judge", "sanac_state_judge"  # kinds: model_type of their configs
PREVIEWS, STATES = "judge", "state-judge"  # folders beside a model that hold its judges


@dataclass(frozen=True)
class JudgeFiles:
    """A judge's checked files."""

    folder: Path
    name: str
    config: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.folder / WEIGHTS

    @property
    def identity(self) -> str:
        """Name, and a digest of both files."""
        digests = [digest_file(self.folder / name) for name in (CONFIG, WEIGHTS)]
        return f"{self.name}@{json_files.key_of(digests)[:12]}"


def judge_files(word: str, kind: str, beside: str = PREVIEWS) -> JudgeFiles:
    """The files of a judge of this kind: in a folder, or beside sanac:tiny."""
    located = locate(word)
    folder = located.path.with_name(beside) if word == TINY else located.path
    boundary = folder if word == TINY else located.boundary
    if not folder.is_dir():
        raise InvalidInput(f"{word} is not a folder", hint="a judge is a folder with config.json and model.safetensors")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InvalidInput(f"{word} is not a judge", why=f"it has no {name}")
        inside(boundary, folder / name)
    config = json_files.read_object(folder / CONFIG)
    if config.get("model_type") != kind:
        raise InvalidInput(
            f"{word} is not a judge", why=f"its model_type is {config.get('model_type')!r}, not {kind!r}"
        )
    return JudgeFiles(folder, located.name, config)


def size_problems(config: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> list[str]:
    """What is wrong with the sizes in a config: each is a whole number from the least to the most that is given."""
    return [
        f"{name} is {config.get(name)!r}, not a whole number from {least} to {most:,}"
        for name, (least, most) in limits.items()
        if type(config.get(name)) is not int or not least <= config[name] <= most
    ]


def loaded(network: "nn.Module", files: JudgeFiles) -> None:
    """Load a judge's weights into its network, in fp32; InvalidInput unless names, shapes and values are sound."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(ref.shape) for name, ref in read_header(files.weights).tensors.items()}
    problems = [f"it has no {name}" for name in wanted.keys() - found.keys()]
    problems += [f"it has an unknown tensor {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} is {found[name]}, not {shape}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    if problems:
        raise InvalidInput(f"{files.weights} doesn't fit its config", why=problems[0], problems=sorted(problems))
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(files.weights).items()}
    except SafetensorError as error:
        raise InvalidInput(f"cannot read {files.weights}", why=str(error)) from error
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise InvalidInput(f"{files.weights} has NaN or infinity in {bad[0]}", hint="fetch it again")
    network.load_state_dict(tensors)
    network.eval().requires_grad_(requires_grad=False)


def save_judge(network: "nn.Module", config: Mapping[str, Any], folder: ConfinedPath) -> None:
    """Write a judge's folder, its weights in half precision."""
    from sanac.core.atomic import write_atomically
    from sanac.nn.save_tensors import save_tensors

    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: tensor.half() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    write_atomically(folder / CONFIG, json_files.pretty(dict(config)))
