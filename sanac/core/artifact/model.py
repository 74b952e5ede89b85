"""A model on disk, opened without loading weights: components, configs, tensor references, manifest."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.manifest import Manifest, changed_after_sealing, check_sealed, read_manifest
from sanac.core.artifact.schedule import SCHEDULE, Schedule, schedule_from_json
from sanac.core.artifact.staging import UNFINISHED
from sanac.core.checkpoint.locate import BUNDLED, Located, inside
from sanac.core.checkpoint.lora import Patch, parse_word, read_patches
from sanac.core.checkpoint.weights import PTH_SUFFIXES, Weights, in_diffusers_names, open_file, open_folder
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import TRANSFORMER_CLASS, Architecture, config_problems, recognise
from sanac.core.family.showo import is_showo
from sanac.core.file_copy import digest_file
from sanac.core.safetensors_header import TensorRef

LOOSE_FILES = ("model.pth", "model.safetensors")  # written by `convert --to nvlabs` and `--to single`
SIDE_FILE = "nvlabs-only.safetensors"  # sidecar in a diffusers artifact: tensors that only NVlabs' layout has
OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".engine")
_ROOT_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


@dataclass(frozen=True)
class Component:
    """A pipeline component: its folder, its files, and its weights if it has any."""

    name: str
    class_name: str
    folder: Path
    files: tuple[Path, ...]
    weights: Weights | None
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """An opened MODEL: a pipeline, a transformer folder or a single file."""

    located: Located
    kind: str  # pipeline | transformer | file
    transformer: Component
    others: tuple[Component, ...]
    model_index: Mapping[str, Any] | None
    manifest: Manifest | None
    patches: Mapping[str, tuple[Patch, ...]] = field(default_factory=dict)  # LoRAs, merged when the weights are written
    patch_identity: tuple[str, ...] = ()

    @cached_property
    def architecture(self) -> Architecture:
        """The transformer's architecture, derived from and checked against all tensors and config.json."""
        found = recognise(self.weights.tensors, str(self.located.path))
        problems = config_problems(self.transformer.config, found)
        if problems:
            raise InvalidInput(
                f"{self.transformer.folder}: config.json doesn't match the weights", why=problems[0], problems=problems
            )
        return found

    @property
    def title(self) -> str:
        """The name of its architecture."""
        return self.architecture.title

    @property
    def weights(self) -> Weights:
        """The transformer's weights."""
        if self.transformer.weights is None:
            raise InvalidInput(
                f"{self.transformer.folder} has no .safetensors weights",
                hint="provide the weights as .safetensors, or pass the path of NVlabs' .pth file",
            )
        return self.transformer.weights

    @property
    def components(self) -> tuple[Component, ...]:
        """All components, the transformer first."""
        return (self.transformer, *self.others)

    @property
    def root_files(self) -> tuple[Path, ...]:
        """Files in the pipeline's root that a copy must include: licences."""
        if self.kind != "pipeline":
            return ()
        found = [path for name in _ROOT_FILES if os.path.lexists(path := self.located.path / name)]
        for path in found:
            inside(self.located.boundary, path)
        return tuple(found)

    def find_file(self, name: str) -> Path | None:
        """The file `name` of the model's folder; None if there is none.

        InvalidInput for a link: any in an artifact, in a model of other origin one that leads out of it.
        """
        folder = self.located.path if self.located.path.is_dir() else self.located.path.parent
        if self.manifest is not None:
            path = ConfinedPath(folder) / name
            return Path(path) if path.is_file() else None
        if not os.path.lexists(folder / name):
            return None
        inside(self.located.boundary, folder / name)
        return folder / name

    @cached_property
    def schedule(self) -> Schedule | None:
        """How many blocks each sampler step runs, and whether it is guided; None if all steps run the whole model."""
        path = self.find_file(SCHEDULE)
        if path is None:
            return None
        if self.manifest is not None and SCHEDULE not in self.manifest.files:
            raise changed_after_sealing(self.located.path, [f"{SCHEDULE} was added"])
        return schedule_from_json(json_files.read_object(path), str(path), self.architecture.blocks)

    @cached_property
    def extras(self) -> Mapping[str, TensorRef]:
        """Tensors that only NVlabs' layout has: from the checkpoint itself, or from a converted model's sidecar."""
        if self.weights.extras or self.manifest is None or SIDE_FILE not in self.manifest.files:
            return self.weights.extras
        side_file = self.find_file(SIDE_FILE)
        return open_file(side_file, self.located.boundary).tensors if side_file else {}

    def with_loras(self, words: Sequence[str]) -> "Model":
        """This model with LoRAs to merge: `words` are FILE or FILE:SCALE, their block numbers the original source's."""
        plan = self.manifest.whole_plan if self.manifest else None
        origins = plan.sources if plan else range(self.architecture.blocks)
        source_blocks = plan.source_blocks if plan else self.architecture.blocks
        patches: dict[str, tuple[Patch, ...]] = dict(self.patches)
        for word in words:
            path, scale = parse_word(word)
            for name, patch in read_patches(path, scale, self.weights.tensors, origins, source_blocks).items():
                patches[name] = (*patches.get(name, ()), patch)
        identity = tuple(f"{digest_file(path)}:{scale}" for path, scale in map(parse_word, words))
        return replace(self, patches=patches, patch_identity=self.patch_identity + identity)

    def identity(self, *, full_hash: bool = False) -> str:
        """One digest of the model: of an artifact's content key and sealed digests, else of its files' identities."""
        if self.manifest is not None and not full_hash:
            manifest = self.manifest
            sealed = {path: file.blake3 for path, file in manifest.files.items() if path not in manifest.added}
            return json_files.key_of(["artifact", manifest.key, sealed, *self.patch_identity])
        full_hash = full_hash or self.located.name in BUNDLED  # independent of installation path and time
        parts = [[part.name, identity_of(part, full_hash=full_hash)] for part in self.components]
        root: list[list[Any]] = [[path.name, digest_file(path)] for path in self.root_files]
        root += [[SCHEDULE, self.schedule.to_json()]] if self.schedule else []
        return json_files.key_of([*parts, *root, self.model_index, *self.patch_identity])

    def content(self) -> str:
        """One digest of the transformer's tensors, independent of file layout; sealed digests are reused."""
        known = self.manifest.tensors.get("transformer", {}) if self.manifest else {}
        refs = sorted(self.weights.stored, key=lambda ref: ref.name)
        digests = (known.get(ref.name) or digest_file(ref.path, ref.start, ref.size) for ref in refs)
        tensors = [[ref.name, ref.dtype, list(ref.shape), digest] for ref, digest in zip(refs, digests, strict=True)]
        return json_files.key_of([tensors, *self.patch_identity])


def identity_of(part: Component, *, full_hash: bool) -> list[Any]:
    """What identifies a component's files."""
    weight_files = part.weights.files if part.weights else ()
    small: list[Any] = [[path.name, digest_file(path)] for path in part.files if path not in weight_files]
    if part.weights is None:
        return small
    small.append(dict(part.config))  # a single file's config.json is next to it
    if full_hash:
        tensors = sorted(part.weights.stored, key=lambda ref: ref.name)
        return small + [[t.name, t.dtype, list(t.shape), digest_file(t.path, t.start, t.size)] for t in tensors]
    return small + part.weights.identity()


def streaming_memory(components: Sequence[Component]) -> int:
    """Bytes of memory for a job that streams these components without holding a tensor: mostly its parsed headers."""
    headers = sum(len(header.raw) for part in components if part.weights for header in part.weights.headers)
    return 100_000_000 + 20 * headers


def open_model(located: Located) -> Model:
    """Open a located SANA model: a pipeline folder, a transformer folder, an artifact or a single file."""
    path = located.path
    if path.is_file():
        return _open_file(located, path, None)
    try:
        manifest = read_manifest(path)
        if (path / "model_index.json").is_file():
            return _open_pipeline(located, manifest)
        for name in LOOSE_FILES:
            if manifest and name in manifest.files:
                return _sealed(_open_file(located, path / name, manifest))
        for folder in (path, path / "transformer"):
            if (folder / "config.json").is_file():
                transformer = _component(located, "transformer", TRANSFORMER_CLASS, folder)
                if is_showo(transformer.config):
                    raise not_sana(located)
                return _sealed(Model(located, "transformer", transformer, (), None, manifest))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error
    raise InvalidInput(
        f"{path} is not a model folder",
        why="it has neither model_index.json (a pipeline) nor config.json (a transformer)",
        hint="point at the folder that holds one of them, or at a .safetensors or .pth file",
    )


def not_sana(located: Located) -> UsageError:
    """The error where a token generator was passed to what works on SANA only."""
    return UsageError(
        f"{located.name} is a token generator, and this works on SANA models only",
        hint="inspect, generate, evaluate, bench and reinforce take token generators",
    )


def _open_file(located: Located, path: Path, manifest: Manifest | None) -> Model:
    if path.suffix not in {".safetensors", *PTH_SUFFIXES}:
        raise InvalidInput(
            f"{path} is neither a .safetensors nor a .pth file",
            hint="sanac reads diffusers folders, .safetensors and .pth files and hub ids",
        )
    weights = in_diffusers_names(open_file(path, located.boundary), str(path))
    beside = path.parent / "config.json"
    config = json_files.read_object(inside(located.boundary, beside)) if beside.is_file() else {}
    transformer = Component("transformer", TRANSFORMER_CLASS, path.parent, (path,), weights, config)
    return Model(located, "file", transformer, (), None, manifest)


def _open_pipeline(located: Located, manifest: Manifest | None) -> Model:
    index = json_files.read_object(inside(located.boundary, located.path / "model_index.json"))
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry != [None, None]}
    problems = [
        f"{name}: {entry!r} is not a library and a class"
        for name, entry in parts.items()
        if len(entry) != 2 or not all(isinstance(word, str) for word in entry)
    ]
    problems += [f"{name!r} is not a component's name" for name in parts if not name.isidentifier()]
    problems += [f"the folder {name} is missing" for name in parts if not (located.path / name).is_dir()]
    entry = parts.get("transformer")
    if entry is None or entry[-1] != TRANSFORMER_CLASS:
        problems.append(f"its transformer is {entry[-1] if entry else 'missing'}, not a {TRANSFORMER_CLASS}")
    if problems:
        raise InvalidInput(f"{located.path} is not a SANA pipeline", why=problems[0], problems=problems)
    opened = {name: _component(located, name, entry[1], located.path / name) for name, entry in parts.items()}
    transformer = opened.pop("transformer")
    return _sealed(Model(located, "pipeline", transformer, tuple(opened.values()), index, manifest))


def _component(located: Located, name: str, class_name: str, folder: Path) -> Component:
    if not folder.resolve().is_relative_to(located.boundary):
        raise InvalidInput(
            f"{folder} points outside {located.boundary}", why="it is a link to a place outside the model's folder"
        )
    weights = open_folder(folder, located.boundary)
    if weights and class_name == TRANSFORMER_CLASS:
        weights = in_diffusers_names(weights, str(folder))
    weight_files = weights.files if weights else ()
    files = tuple(
        path
        for path in sorted(folder.iterdir())
        if path in weight_files or _belongs(path, has_weights=weights is not None)
    )
    for path in files:
        inside(located.boundary, path)
    config = folder / "config.json"
    return Component(
        name, class_name, folder, files, weights, json_files.read_object(config) if config.is_file() else {}
    )


def _belongs(path: Path, *, has_weights: bool) -> bool:
    """Whether a file belongs to its component: configs, vocabularies; other weight formats only without weights."""
    if path.name.startswith(".") or path.name.endswith(UNFINISHED) or path.is_dir():
        return False
    return not has_weights or not (path.suffix in OTHER_WEIGHTS or ".index." in path.name)


def _sealed(model: Model) -> Model:
    """The same model; InvalidInput if it is an artifact whose files were changed after sealing."""
    if model.manifest is not None:
        manifest = model.manifest
        own = {name: file for name, file in manifest.files.items() if name not in manifest.added}
        problems = check_sealed(model.located.path, replace(manifest, files=own))
        names = [path.relative_to(model.located.path).as_posix() for part in model.components for path in part.files]
        problems += [f"{name} was added" for name in names if name not in model.manifest.files]
        if problems:
            raise changed_after_sealing(model.located.path, problems)
    return model
