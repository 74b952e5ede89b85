"""`sanac compare`: the same prompts and noises with several models, side by side."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core import json_files
from sanac.core.artifact.cache import load_cached
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import digest_file
from sanac.runtime.generate import PlannedPicture, refuse_replacing
from sanac.runtime.image_files import read_metadata, save_image
from sanac.verify.compare import Measured, figures, measure
from sanac.verify.compare_plan import ComparisonPlan, check_words, plan_comparison
from sanac.verify.compare_show import show_comparison
from sanac.verify.comparison_sheet import draw_comparison
from sanac.verify.settings import CompareSettings

RESULT, SHEET = "compare.json", "sheet.png"
_FIELDS = {"models": list, "prompts": list, "files": dict, "images": int, "digest": str}


def run(words: Sequence[str], settings: CompareSettings, context: Context) -> Outcome:
    """Compare models, or show the same comparison that was made before."""
    check_words(words)
    plan = plan_comparison(words, [context.open(word) for word in words], settings)
    home = _home(plan, settings)
    planned = plan.pictures(home)
    known = None if settings.force else _load(home, plan.key)
    if known:
        return _outcome(known, home, cached=True)
    if not settings.force:
        _refuse_replacing(home, plan, planned)
    try:
        for folder in plan.folder_names:
            (home / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidInput(f"cannot write to {home}", why=why, hint="choose another --out") from error
    (home / RESULT).unlink(missing_ok=True)
    measured = measure(plan, planned, context.reporter)
    return _outcome(_store(home, plan, planned, measured), home, cached=False)


def _home(plan: ComparisonPlan, settings: CompareSettings) -> ConfinedPath:
    if settings.out:
        return ConfinedPath(settings.out)
    return ConfinedPath(settings.workspace) / f"compare-{plan.key[:8]}"


def _load(home: ConfinedPath, key: str) -> dict[str, Any] | None:
    """The comparison of this key in `home`, if it and all its files are as they were written."""
    found = load_cached(home / RESULT, key, _FIELDS)
    if found is None or found["digest"] != _digest(found):
        return None
    whole = all((home / name).is_file() and digest_file(home / name) == seal for name, seal in found["files"].items())
    return found if whole else None


def _digest(found: Mapping[str, Any]) -> str:
    return json_files.key_of({name: value for name, value in found.items() if name != "digest"})


def _refuse_replacing(home: ConfinedPath, plan: ComparisonPlan, planned: Sequence[Sequence[PlannedPicture]]) -> None:
    """UsageError if something in `home` is not of this comparison, and would be replaced."""
    hint = "choose another --out, or replace it with --force"
    if (home / RESULT).exists():
        other = json_files.read_object(home / RESULT).get("key")
        if other != plan.key:
            raise UsageError(f"{home} holds another comparison", why=f"{home / RESULT} would be lost", hint=hint)
    if (home / SHEET).exists() and read_metadata(home / SHEET).get("comparison") != plan.key:
        raise UsageError(f"{home / SHEET} would be lost", why="it is not the sheet of this comparison", hint=hint)
    refuse_replacing(picture for pictures in planned for picture in pictures)


def _store(
    home: ConfinedPath,
    plan: ComparisonPlan,
    planned: Sequence[Sequence[PlannedPicture]],
    measured: Sequence[Measured],
) -> dict[str, Any]:
    """Draw the sheet and write compare.json; returns its content."""
    models = figures(plan, measured)
    sheet = draw_comparison(models, [one.pictures for one in measured], plan.prompts)
    save_image(sheet, home / SHEET, {"comparison": plan.key, "software": f"sanac {__version__}"})
    names = [SHEET]
    for entry, folder, pictures in zip(models, plan.folder_names, planned, strict=True):
        entry["pictures"] = [f"{folder}/{Path(picture.path).name}" for picture in pictures]
        names += entry["pictures"]
    settings = plan.settings
    found: dict[str, Any] = {"key": plan.key, "models": models, "prompts": list(plan.prompts), "images": plan.images}
    found |= {"seed": settings.seed, "guidance": settings.guidance, "device": plan.device}
    found |= {"suite": f"shapes, {settings.prompts_split}"} if plan.images else {}
    found |= {"files": {name: digest_file(home / name) for name in names}}
    found |= {"digest": _digest(found)}
    write_atomically(home / RESULT, json_files.pretty(found))
    return found


def _outcome(found: Mapping[str, Any], home: ConfinedPath, *, cached: bool) -> Outcome:
    files = [str(home / SHEET), str(home / RESULT)]
    data = {name: value for name, value in found.items() if name not in {"files", "digest"}}
    data |= {"sheet": files[0]}
    show = partial(show_comparison, found, files, cached=cached)
    return Outcome("cached" if cached else "ok", data, home.path, found, show)
