"""Measures images of the prompts suite: how alike two models' images are, and what verifiers say of both."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.judge.clip_score import ClipVerifier
from sanac.judge.image_metrics import Picture, ms_ssim_distance, psnr, ssim
from sanac.judge.requests import judge_behind, requests_of
from sanac.judge.verifier import Request, Verifier, score_name
from sanac.judge.words import kind_of
from sanac.search.verifiers import open_kept
from sanac.verify.prompts_suite import ModelPictures, batches

TOGETHER = 16  # images that are read at a time
FEATURES = "feature_distance"


@dataclass(frozen=True)
class JudgeScores:
    """One verifier's scores, by image, and its distances where it has features to compare."""

    name: str  # in metrics: clip
    id: str
    scores: tuple[float, ...]
    reference: tuple[float, ...] = ()  # empty without a reference
    distances: tuple[float, ...] = ()  # of CLIP features; empty without a reference of the same size


def similarities(ours: ModelPictures, reference: ModelPictures, reporter: Reporter) -> list[dict[str, float]] | None:
    """PSNR, SSIM and the structural distance of each image to the reference's; None for images of other sizes."""
    if not same_size(ours, reference):
        return None
    found: list[dict[str, float]] = []
    reporter.begin("comparing", len(ours.planned), "images")
    try:
        for start, stop in batches(len(ours.planned), TOGETHER):
            for one, other in zip(ours.read(start, stop), reference.read(start, stop), strict=True):
                same = float(np.array_equal(one, other))
                alike = {"psnr": psnr(one, other), "ssim": ssim(one, other)}
                found.append({**alike, "ms_ssim_distance": ms_ssim_distance(one, other), "identical": same})
            reporter.advance(stop - start)
    finally:
        reporter.end()
    return found


def same_size(ours: ModelPictures, reference: ModelPictures) -> bool:
    """Whether both models generate images of one size."""
    return ours.read(0, 1)[0].shape == reference.read(0, 1)[0].shape


def judged(
    words: Sequence[str],
    ours: ModelPictures,
    reference: ModelPictures | None,
    device: str,
    kept: ConfinedPath,
    reporter: Reporter,
    *,
    alike: bool,
) -> list[JudgeScores]:
    """The scores of every verifier, one verifier in memory at a time; `alike`: whether sizes can be compared."""
    requests = requests_of([one.prompt for one in ours.planned])
    found = []
    for word, name in zip(words, judge_names(words), strict=True):
        verifier = open_kept(word, device, kept)
        sides = [ours, *([reference] if reference else [])]
        reporter.begin(f"scoring with {name}", len(sides) * len(requests), "images")
        try:
            scores = [_scores(verifier, side, requests, reporter) for side in sides]
        finally:
            reporter.end()
        distances: tuple[float, ...] = ()
        if reference and alike and isinstance(verifier.verifier, ClipVerifier):
            distances = KeptDistances(verifier.verifier, kept).of(ours, reference)
        found.append(JudgeScores(name, verifier.id, scores[0], scores[1] if reference else (), distances))
        del verifier
        gc.collect()
    return found


def _scores(
    verifier: Verifier, side: ModelPictures, requests: Sequence[Request], reporter: Reporter
) -> tuple[float, ...]:
    found: list[float] = []
    for start, stop in batches(len(requests), TOGETHER):
        found += verifier.scores(side.read(start, stop), requests[start:stop])
        reporter.advance(stop - start)
    return tuple(found)


@dataclass
class KeptDistances:
    """Distances of CLIP features between pairs of images, kept in a file: none is computed twice."""

    verifier: ClipVerifier
    folder: ConfinedPath
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the distances of earlier runs; a damaged file is none."""
        found = load_cached(self.file, self.key, {"distances": dict})
        distances: Mapping[str, object] = found["distances"] if found else {}
        self._known = {name: float(one) for name, one in distances.items() if isinstance(one, int | float)}

    @property
    def key(self) -> str:
        """The verifier, and what is computed with it."""
        return f"{self.verifier.id} {FEATURES}"

    @property
    def file(self) -> ConfinedPath:
        """Where distances are kept."""
        return self.folder / f"distances-{json_files.key_of(self.key)[:8]}.json"

    def of(self, ours: ModelPictures, reference: ModelPictures) -> tuple[float, ...]:
        """The distance of each image from the reference's."""
        found: list[float] = []
        for start, stop in batches(len(ours.planned), TOGETHER):
            found += self._some(ours.read(start, stop), reference.read(start, stop))
        return tuple(found)

    def _some(self, images: Sequence[Picture], references: Sequence[Picture]) -> list[float]:
        pairs = zip(images, references, strict=True)
        names = [json_files.key_of([score_name(one, Request("")) for one in pair])[:32] for pair in pairs]
        unknown = {name: place for place, name in enumerate(names) if name not in self._known}
        if unknown:
            places = list(unknown.values())
            some = [images[place] for place in places], [references[place] for place in places]
            self._known |= dict(zip(unknown, self.verifier.feature_distances(*some), strict=True))
            store_cached(self.file, {"key": self.key, "distances": self._known})
        return [self._known[name] for name in names]


def judge_names(words: Sequence[str]) -> list[str]:
    """The verifiers' names in metrics: their kind, with the model's name where a kind is there twice."""
    kinds = [kind_of(word) for word in words]
    found: list[str] = []
    for word, kind in zip(words, kinds, strict=True):
        name = kind
        if kinds.count(kind) > 1:
            folder = judge_behind(word)
            assert folder
            name = f"{kind}-{folder.name.rpartition('/')[2]}"
        found.append(name if name not in found else f"{name}-{len(found) + 1}")
    return found
