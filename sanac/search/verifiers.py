"""Opens verifiers by the words of `--verifier`: shapes, judge:, clip:, vlm:, atoms:MODEL; several are an ensemble."""

from collections.abc import Sequence
from functools import cache

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.judge.judge_files import judge_files
from sanac.judge.metadata import GenEvalTask, parse_task
from sanac.judge.preview_judge import KIND, JudgeShape, PreviewJudgeVerifier
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import KeptScores, RankEnsemble, Request, Verifier
from sanac.shapes.prompts import Prompt, prompts_of
from sanac.shapes.words import TAGS

_SPLITS = ("train", "tune", "test", "held-out")


def open_verifier(words: Sequence[str], device: str, kept: ConfinedPath) -> Verifier:
    """The verifier of these words, each with its scores kept in a file of the folder `kept`; nothing is downloaded."""
    found = tuple(_kept(_open(word, device), kept) for word in words)
    return found[0] if len(found) == 1 else RankEnsemble(found)


def _kept(verifier: Verifier, folder: ConfinedPath) -> KeptScores:
    return KeptScores(verifier, folder / f"scores-{json_files.key_of(verifier.id)[:8]}.json")


def _open(word: str, device: str) -> Verifier:
    kind, _, model = word.partition(":")
    if kind == "shapes":
        return ShapesVerifier()
    if kind == "judge":
        return PreviewJudgeVerifier.open(judge_files(model, KIND), device)
    from sanac.judge.clip_score import ClipVerifier
    from sanac.judge.model_folder import CONTRASTIVE, YES_NO, open_judge
    from sanac.judge.questions import FINAL
    from sanac.judge.yes_no import AtomsVerifier, YesNoModel, YesNoVerifier

    if kind == "clip":
        return ClipVerifier.open(open_judge(model, CONTRASTIVE), device)
    judge = YesNoModel.open(open_judge(model, YES_NO), device)
    return YesNoVerifier(judge, FINAL) if kind == "vlm" else AtomsVerifier(judge.probability, judge.id)


def requests_of(prompts: Sequence[str]) -> list[Request]:
    """The requests of some prompts; those of the shapes world say what they ask for."""
    return [Request(prompt, _shapes_tasks().get(prompt)) for prompt in prompts]


def check_requests(words: Sequence[str], requests: Sequence[Request]) -> None:
    """UsageError, before anything is generated, for prompts that a verifier of these words can't judge."""
    for word in words:
        kind, _, model = word.partition(":")
        if kind == "judge":
            JudgeShape.from_json(judge_files(model, KIND).config).check([request.prompt for request in requests])
    strangers = [request.prompt for request in requests if request.task is None]
    needing = [word for word in words if word.partition(":")[0] in {"shapes", "atoms"}]
    if strangers and needing:
        raise UsageError(
            f"--verifier {needing[0]} can't judge {strangers[0]!r}",
            why="it has to know what a prompt asks for, and only does for prompts of the shapes world",
            problems=[repr(prompt) for prompt in strangers],
            hint="--verifier clip:MODEL or vlm:MODEL",
        )


@cache
def _shapes_tasks() -> dict[str, GenEvalTask]:
    """What every prompt of the shapes world asks for."""
    every: list[Prompt] = [prompt for split in _SPLITS for tag in TAGS for prompt in prompts_of(tag, split)]
    return {prompt.text: parse_task(prompt.metadata) for prompt in every}
