"""Settings of a recipe's stage as words of the command line, and as parts of its content key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import digest_file
from sanac.core.settings import DataRef, LoraRef, ModelRef, Setting, settings_of
from sanac.verbs import VERBS

SCENES = "shapes"  # data that is drawn, not a folder
_FILES = (Path, DataRef)


def words(verb: str, settings: Mapping[str, Any], base: Path) -> list[str]:
    """The command line of some settings; paths are relative to the recipe's folder."""
    known = settings_of(VERBS[verb].settings_class())
    return [word for name, value in settings.items() for word in _words(known[name], value, base)]


def _words(setting: Setting, value: Any, base: Path) -> list[str]:
    if setting.kind is bool:
        return [setting.flag] if value else []
    several = value if isinstance(value, list) else [value]
    if setting.option.comma:
        return [setting.flag, ",".join(map(str, several))]
    return [word for one in several for word in (setting.flag, _word(setting, one, base))]


def _word(setting: Setting, value: Any, base: Path) -> str:
    if setting.kind is LoraRef or (setting.kind in _FILES and value != SCENES):
        return str(base / value)
    if setting.kind is ModelRef and (base / value).exists():
        return str(base / value)
    return str(value)


def key_part(verb: str, settings: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The settings that decide a stage's result, under the names of content keys; of files their contents."""
    known = settings_of(VERBS[verb].settings_class())
    return {
        known[name].option.stored or name: _weighed(verb, known[name], value, base)
        for name, value in settings.items()
        if known[name].option.affects_result
    }


def _weighed(verb: str, setting: Setting, value: Any, base: Path) -> Any:
    if setting.kind is ModelRef and (base / value).exists():
        return open_model(locate(str(base / value))).identity()
    if setting.kind is LoraRef:
        several = value if isinstance(value, list) else [value]
        return [[_contents(verb, setting, base / lora_file(one)), one.removeprefix(lora_file(one))] for one in several]
    if setting.kind not in _FILES or value == SCENES:
        return value
    return _contents(verb, setting, base / value)


def _contents(verb: str, setting: Setting, path: Path) -> Any:
    """A file's digest; of a folder names, sizes and times."""
    try:
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
            return [[str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns] for one in files]
        return digest_file(path)
    except FileNotFoundError as error:
        where = "paths are relative to the recipe's folder"
        raise UsageError(f"{verb}.{setting.name}: {path} does not exist", hint=where) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{verb}.{setting.name}: {path} can't be read", why=str(error)) from error


def lora_file(text: str) -> str:
    """'style.safetensors:0.8' -> 'style.safetensors'."""
    return re.sub(r":[-+.\deE]+$", "", text)
