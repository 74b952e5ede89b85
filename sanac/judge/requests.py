"""What prompts ask for, where that is known, which verifiers can judge them, and what identifies those."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sanac.core.errors import UsageError
from sanac.judge.confirm_options import SIMILARITY
from sanac.judge.judge_files import PREVIEW_JUDGE, JudgeFiles, judge_files
from sanac.judge.metadata import GenEvalTask, parse_task, unknown_words
from sanac.judge.model_folder import CONTRASTIVE, YES_NO, JudgeFolder, open_judge
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import Request
from sanac.judge.words import kind_of, model_of, split_words
from sanac.nn.calibration.prompts import read_judged_prompts
from sanac.shapes.prompts import Prompt, prompts_of
from sanac.shapes.words import COLORS, SHAPES, TAGS, plural

_SPLITS = ("train", "tune", "test", "held-out")


def requests_of(prompts: Sequence[str]) -> list[Request]:
    """The requests of some prompts; those of the shapes world say what they ask for."""
    return [Request(prompt, _shapes_tasks().get(prompt)) for prompt in prompts]


def check_requests(words: Sequence[str], requests: Sequence[Request]) -> None:
    """UsageError, before anything is generated, for prompts that a verifier of these words can't judge."""
    for word in words:
        judge = judge_behind(word)
        if isinstance(judge, JudgeFiles):
            check_words(judge.config.get("words"), [request.prompt for request in requests])
        if kind_of(word) in {"shapes", "atoms"}:
            _check_tasks(word, requests)


def _check_tasks(word: str, requests: Sequence[Request]) -> None:
    """UsageError for prompts of which a verifier doesn't know what they ask for, or doesn't know the things."""
    strangers = [request.prompt for request in requests if request.task is None]
    why = "it has to know what a prompt asks for, and only does for prompts of the shapes world"
    if kind_of(word) == "shapes" and not strangers:
        tasks = [(request.prompt, request.task) for request in requests if request.task]
        strangers = [prompt for prompt, task in tasks if unknown_words([task], SHAPES, COLORS)]
        why = f"it only sees {', '.join(map(plural, SHAPES))} of {len(COLORS)} colours"
    if strangers:
        raise UsageError(
            f"{word} can't judge {strangers[0]!r}",
            why=why,
            problems=[repr(prompt) for prompt in strangers],
            hint="clip:MODEL and vlm:MODEL judge any prompt",
        )


def confirming_prompts(file: Path | None, verifier: str | None) -> tuple[str, ...]:
    """The user's prompts of `--confirm prompts`, once their verifier is known to be here and to judge them.

    Empty without a file.
    """
    if file is None:
        return ()
    prompts = read_judged_prompts(file)
    if verifier:
        check_requests([verifier], requests_of(prompts))
        judge_behind(verifier)
    return prompts


def judge_behind(word: str) -> JudgeFolder | JudgeFiles | None:
    """The checked folder behind a word of `--verifier`; None for shapes, which has none. No weights are loaded."""
    kind, model = kind_of(word), model_of(word)
    if kind == "shapes":
        return None
    if kind == "judge":
        return judge_files(model, PREVIEW_JUDGE)
    return open_judge(model, CONTRASTIVE if kind == "clip" else YES_NO)


def check_words(known: object, prompts: Sequence[str]) -> None:
    """UsageError for prompts with words that a judge of a fixed vocabulary never learned."""
    words = dict.fromkeys(word for prompt in prompts for word in split_words(prompt))
    vocabulary = set(known) if isinstance(known, list | tuple) else set()
    if strangers := [word for word in words if word not in vocabulary]:
        raise UsageError(
            f"the judge can't judge prompts with the words {', '.join(strangers)}",
            why="it was trained on a smaller vocabulary",
            hint="clip:MODEL and vlm:MODEL judge any prompt",
        )


def judge_identity(word: str | None) -> str:
    """What identifies the judge behind a word of `--verifier`, for content keys: no path of this machine."""
    if word is None:
        return SIMILARITY
    judge = judge_behind(word)
    return f"{kind_of(word)} {judge.identity}" if judge else ShapesVerifier.id


@cache
def _shapes_tasks() -> dict[str, GenEvalTask]:
    """What every prompt of the shapes world asks for."""
    every: list[Prompt] = [prompt for split in _SPLITS for tag in TAGS for prompt in prompts_of(tag, split)]
    return {prompt.text: parse_task(prompt.metadata) for prompt in every}
