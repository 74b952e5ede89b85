"""`sanac inspect`: what a checkpoint is, from its headers."""

from functools import partial
from pathlib import Path

from sanac.core.artifact.ancestry import find_ancestry
from sanac.core.artifact.integrity import scan, unread
from sanac.core.artifact.model import Model, streaming_memory
from sanac.core.artifact.summary import summarise, summarise_tokens
from sanac.core.artifact.token_model import AnyModel, TokenModel
from sanac.core.context import Context, Outcome
from sanac.core.errors import InvalidInput
from sanac.core.inspect.settings import InspectSettings
from sanac.core.inspect.show import show_summary, show_tokens
from sanac.core.resources import Needs, check_room
from sanac.core.units import bytes_text


def run(word: str, settings: InspectSettings, context: Context) -> Outcome:
    """Summarise a model; with --scan, read every byte of it."""
    opened = context.open_any(word)
    if isinstance(opened, TokenModel):
        return _inspect_tokens(opened, settings, context)
    summary = summarise(opened)
    _check_room(opened, context, scanned=settings.scan)
    ancestry = _scan(opened, settings.workspace, context) if settings.scan else ""
    data = summary.to_json() | {"scanned": settings.scan, "descent": ancestry}
    show = partial(show_summary, summary, scanned=settings.scan, ancestry=ancestry)
    return Outcome("ok", data, view=summary, show=show)


def _inspect_tokens(model: TokenModel, settings: InspectSettings, context: Context) -> Outcome:
    summary = summarise_tokens(model)
    _check_room(model, context, scanned=settings.scan)
    if settings.scan:
        _check_bytes(model, context)
    show = partial(show_tokens, summary, scanned=settings.scan)
    return Outcome("ok", summary.to_json() | {"scanned": settings.scan}, view=summary, show=show)


def _check_room(model: AnyModel, context: Context, *, scanned: bool) -> None:
    weights = [part.weights for part in model.components if part.weights]
    headers = sum(len(header.raw) for found in weights for header in found.headers)
    traffic = sum(found.size for found in weights) if scanned else headers
    context.reporter.note(f"reads {bytes_text(traffic)}, writes nothing")
    needs = Needs(disk=0, memory=streaming_memory(model.components), traffic=traffic)
    check_room(needs, model.located.path, context.reporter)


def _scan(model: Model, workspace: Path, context: Context) -> str:
    """Read every byte; returns what the model descends from, if it has no manifest that says so."""
    _check_bytes(model, context)
    return "" if model.manifest else str(find_ancestry(model, workspace, context.reporter) or "")


def _check_bytes(model: AnyModel, context: Context) -> None:
    """InvalidInput for NaN, and for files that differ from their digests."""
    for name in unread(model):
        context.reporter.warn(f"{name} was not scanned: sanac doesn't read that format")
    findings = scan(model, context.reporter)
    if findings:
        problems = [f"{found.component}: {found.name}: {found.what}" for found in findings]
        raise InvalidInput(f"{model.located.path} is damaged", why=problems[0], problems=problems)
