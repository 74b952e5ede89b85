"""Resolves the MODEL argument: a folder, a file, a hub id in the local cache, or a bundled model."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sanac.core.errors import InvalidInput, MissingResource, UsageError

DEFAULT_MODEL = "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers"
TINY, TOKENS = "sanac:tiny", "sanac:tokens"
_PACKAGE = Path(__file__).resolve().parents[2] / "tiny"
BUNDLED = {TINY: _PACKAGE / "model", TOKENS: _PACKAGE / "tokens" / "model"}  # models in this package
_LONGEST_ID = 200  # characters
_WEIGHT_FILES = (".safetensors", ".pth")
_CACHED = re.compile(r"(?:^|/)models--([\w.-]+)(?:/|$)", re.ASCII)
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*?)(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Located:
    """A model's path on this disk. No file outside `boundary` is read for it."""

    path: Path
    boundary: Path
    name: str  # for messages and lineage: a hub id or the last part of the path, never a machine path


def locate(text: str) -> Located:
    """Find MODEL (`text`) on this machine; never downloads."""
    if text in BUNDLED:
        return _bundled(text)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"there is no {text}", why=str(error)) from error
    if "\0" in text:
        raise UsageError("a path can't contain a NUL byte")
    if _exists(path):
        return _at(path)
    if path.is_symlink():
        raise InvalidInput(f"{text} is a broken link", why=f"it points to {path.readlink()}")
    hub = _HUB_ID.fullmatch(text)
    if hub is None or text.count("/") != 1 or path.suffix in _WEIGHT_FILES:
        raise UsageError(f"there is no {text}", hint=_did_you_mean(path))
    try:
        return _in_hub_cache(hub[1], hub[2])
    except NotDownloaded as error:
        if not path.parent.is_dir():
            raise
        why = f"{path.parent} is a folder here, but has no {path.name}; nor is it in the local hub cache"
        raise UsageError(f"there is no {text}", why=why, hint=_did_you_mean(path)) from error


def hub_id(text: str) -> str:
    """The hub id in OWNER/NAME[@REVISION]; '' if it is something else."""
    found = _HUB_ID.fullmatch(text) if len(text) <= _LONGEST_ID else None
    return found[1] if found else ""


def hub_id_of(name_or_path: str) -> str:
    """The hub id that the `_name_or_path` of a configuration names: an id, or a folder of the hub's cache; else ''.

    A relative path of two parts looks like an id: it is one only if no such path exists here.
    """
    cached = _CACHED.search(name_or_path)
    if cached:
        return hub_id(cached[1].replace("--", "/", 1))
    found = hub_id(name_or_path)
    return found if found and not _exists(Path(found)) else ""


def _bundled(name: str) -> Located:
    """The location of a bundled model."""
    folder = BUNDLED[name]
    if not (folder / "transformer" / "config.json").is_file():
        trainer = "sanac.tiny.train" if name == TINY else "sanac.tiny.tokens.train"
        raise MissingResource(
            f"{name} is missing from this installation",
            why=f"{folder} holds no model",
            hint=f"reinstall sanac, or train the model again with: python -m {trainer} DIR (an hour or two)",
        )
    return Located(folder, folder, name)


def _at(path: Path) -> Located:
    """The location of an existing path. A link into the hub's cache keeps its name: the blob behind it has none."""
    real, plain = path.resolve(), path.absolute()
    for name, folder in BUNDLED.items():
        if real == folder:
            return _bundled(name)
    if real.is_file() and _boundary(plain) in real.parents:
        return Located(plain, _boundary(plain), _name_of(plain))
    return Located(real, _boundary(real), _name_of(real))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # the name is too long, or a folder is not readable
        raise InvalidInput(f"cannot access {path}", why=error.strerror or str(error)) from error


def _boundary(real: Path) -> Path:
    """The folder itself; inside the hub's cache the whole repository folder, because snapshots link to its blobs."""
    for parent in (real, *real.parents):
        if parent.name.startswith("models--") and (parent / "snapshots").is_dir():
            return parent
    return real if real.is_dir() else real.parent


def _name_of(real: Path) -> str:
    boundary = _boundary(real)
    if boundary.name.startswith("models--"):
        return boundary.name.removeprefix("models--").replace("--", "/")
    return real.name


def _did_you_mean(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    close = difflib.get_close_matches(path.name, [*names, *BUNDLED], n=1)
    if close and close[0] in BUNDLED:
        return f"did you mean {close[0]}?"
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return "MODEL is a folder, a .safetensors or .pth file, or a hub id such as " + DEFAULT_MODEL


def _in_hub_cache(repo: str, revision: str | None) -> Located:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = f"{repo}@{revision}" if revision else repo
    try:
        found = snapshot_download(repo, revision=revision, local_files_only=True)
    except HFValidationError as error:
        raise UsageError(f"{repo} is neither a path nor a hub id", why=str(error)) from error
    except LocalEntryNotFoundError as error:
        raise NotDownloaded(repo, revision) from error
    path = Path(found).resolve()
    return Located(path, _boundary(path), wanted)


class NotDownloaded(MissingResource):
    """A hub id whose files are not in the local cache."""

    def __init__(self, repo: str, revision: str | None) -> None:
        at = f" --revision {revision}" if revision else ""
        super().__init__(
            f"{repo} is not on this machine",
            why="no such path exists, and it is not in the local hub cache; sanac doesn't download without asking",
            hint=f"hf download {repo}{at}   (or set HF_HOME to the cache that has it); {TINY} needs no download",
        )
        self.repo = repo
        self.revision = revision


def download(repo: str, revision: str | None) -> Located:
    """Download a repository into the hub's cache; callers ask the user first."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(repo, revision=revision)
    except (HfHubHTTPError, OSError) as error:
        raise MissingResource(f"could not download {repo}", why=str(error).splitlines()[0]) from error
    return _in_hub_cache(repo, revision)


def inside(boundary: Path, path: Path) -> Path:
    """`path` with links resolved; InvalidInput unless it is a regular file inside `boundary`."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(f"{path} is missing", why="the folder's index or a link refers to it") from error
    if not real.is_relative_to(boundary):
        raise InvalidInput(
            f"{path} points outside {boundary}",
            why=f"it resolves to {real}; sanac reads nothing outside the model's folder",
            hint="copy the file into the folder",
        )
    if not real.is_file():
        raise InvalidInput(f"{path} is not a regular file")
    return real
