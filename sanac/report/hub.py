"""Pushes an artifact to the Hugging Face hub, with measured scores in its model card."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core import json_files
from sanac.core.artifact.manifest import MANIFEST, Manifest, check_sealed, read_manifest
from sanac.core.artifact.measurements import BEFORE_AFTER, measurements_in, read_measurement
from sanac.core.artifact.model_card import LINEAGE
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.file_copy import FileRecord, digest_bytes
from sanac.core.progress import Reporter
from sanac.core.units import bytes_text

_CARD = "README.md"
_PLACES = "bench.json"  # it contains local paths
_PICTURES = {  # file in the measurements -> what it shows; the first one that is there goes into the card
    BEFORE_AFTER: "The same prompts and seeds with the source and with this model",
    "evaluate-geneval-hf.png": "Images of GenEval's prompts; right ones have a green frame, wrong ones a red frame",
    "evaluate-shapes.png": "Examples of the evaluation; right pictures have a green frame, wrong ones a red frame",
}
_SUITES = {
    "evaluate-shapes": ("Shapes", "sanac's shapes world"),
    "evaluate-geneval-hf": ("geneval-hf (not comparable with published GenEval scores)", "GenEval"),
}


def push(folder: Path, repo: str, reporter: Reporter, *, private: bool = True) -> str:
    """Push the sealed files, the measurements and the model card in one commit; returns the commit's URL."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder} is not a sanac artifact", hint="push the output folder of a sanac command")
    if problems := check_sealed(folder, manifest):
        raise InvalidInput(f"{folder} was changed after it was sealed", why=problems[0], problems=problems)
    inside = ConfinedPath(folder)
    card = with_results((inside / _CARD).read_text(), folder)
    replaced = {_CARD: card.encode(), MANIFEST: _resealed(manifest, card.encode())}
    paths = [name for name in manifest.files if name not in replaced]
    measured = measurements_in(folder)
    paths += [path.relative for path in measured.iterdir() if path.is_file()] if measured.is_dir() else []
    operations = [CommitOperationAdd(name, str(Path(inside / name))) for name in paths]
    operations += [CommitOperationAdd(name, data) for name, data in replaced.items()]
    size = sum((inside / name).stat().st_size for name in paths)
    reporter.note(f"pushing {len(operations)} files, {bytes_text(size)}, to {repo}")
    api = HfApi(library_name="sanac", library_version=__version__)
    try:
        place = api.create_repo(repo, private=private, exist_ok=True)
        done = api.create_commit(place.repo_id, operations, commit_message=f"sanac {manifest.stage}")
    except HFValidationError as error:
        raise UsageError(f"{repo} is not a valid repository name", why=str(error), hint="OWNER/NAME") from error
    except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise MissingResource(
            "the hub can't be written to", why=str(error).splitlines()[0], hint="hf auth login"
        ) from error
    except _transport(HfHubHTTPError) as error:
        where = os.environ.get("HF_ENDPOINT", "the hub")
        why = str(error).splitlines()[0][:300]
        raise MissingResource(
            f"pushing to {repo} failed",
            why=f"{where}: {why}",
            hint="check the login with hf auth whoami; nothing was committed",
        ) from error
    return str(done.commit_url)


def _transport(error: type[Exception]) -> tuple[type[Exception], ...]:
    """Exceptions of the hub client and of the HTTP library below it, for example on a lost connection."""
    below = [base for base in error.__mro__ if base.__name__ in {"HTTPError", "RequestException"}]
    return (error, OSError, *(base for base in below if issubclass(base, Exception)))


def with_results(card: str, folder: Path) -> str:
    """The model card with a `model-index` of the measured scores, and a section with scores and a picture."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    card = _with_measured(card, [*_measured(folder)])
    results = [EvalResult(task_type="text-to-image", verified=False, **about) for about in _results(folder)]
    if not results:
        return card
    found = ModelCard(card, ignore_metadata_errors=True)
    name = card.partition("\n# ")[2].partition("\n")[0] or folder.name
    found.data = ModelCardData(**{**_mapping(found.data), "model_name": name, "eval_results": results})
    return str(found)


def _with_measured(card: str, lines: Sequence[str]) -> str:
    """The card with a section before the lineage."""
    before, lineage, rest = card.partition(LINEAGE)
    text = "\n".join(lines)
    return f"{before}## Measured\n\n{text}\n{lineage}{rest}" if lines else card


def _measured(folder: Path) -> Iterator[str]:
    """A line per overall score, then the first of the pictures that is there."""
    for name, (title, dataset) in _SUITES.items():
        if value := read_measurement(folder, name):
            score = value["overall"]
            interval = f"{score['low']:.3f} to {score['high']:.3f} at {score['level']:.0%}"
            yield f"{title}: score {score['value']:.3f} ({interval}) on {score['n']} prompts of {dataset}.\n"
    for name, text in _PICTURES.items():
        if (measurements_in(folder) / name).is_file():
            yield f"![{text}]({MEASUREMENTS}/{name})\n"
            return


def _mapping(data: Any) -> dict[str, Any]:
    return dict(data.to_dict())


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    for name, (title, dataset) in _SUITES.items():
        value = read_measurement(folder, name)
        if value is None:
            continue
        about = {"dataset_name": dataset, "dataset_type": name.partition("-")[2], "dataset_split": value.get("split")}
        scores = {"overall": value["overall"], **value["tasks"]}
        for task, score in scores.items():
            text = f"{title}, {task} ({score['low']:.3f} to {score['high']:.3f} at {score['level']:.0%})"
            yield about | {"metric_type": "accuracy", "metric_name": text, "metric_value": round(score["value"], 4)}


def _resealed(manifest: Manifest, card: bytes) -> bytes:
    """The manifest with the digest of the pushed card."""
    files = {**manifest.files, _CARD: FileRecord(len(card), digest_bytes(card))}
    return json_files.pretty(replace(manifest, files=files).to_json())
