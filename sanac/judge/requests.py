"""What prompts ask for, where that is known, which verifiers can judge them, and what identifies those."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sanac.core.errors import UsageError
from sanac.judge.metadata import GenEvalTask, parse_task
from sanac.judge.model_folder import judge_folder
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import Request
from sanac.judge.words import kind_of
from sanac.nn.calibration.prompts import read_judged_prompts
from sanac.shapes.prompts import Prompt, prompts_of
from sanac.shapes.words import TAGS

_SPLITS = ("train", "tune", "test", "held-out")


def requests_of(prompts: Sequence[str]) -> list[Request]:
    """The requests of some prompts; those of the shapes world say what they ask for."""
    return [Request(prompt, _shapes_tasks().get(prompt)) for prompt in prompts]


def check_requests(words: Sequence[str], requests: Sequence[Request]) -> None:
    """UsageError, before anything is generated, for prompts that a verifier of these words can't judge."""
    strangers = [request.prompt for request in requests if request.task is None]
    needing = [word for word in words if kind_of(word) in {"shapes", "atoms"}]
    if strangers and needing:
        raise UsageError(
            f"--verifier {needing[0]} can't judge {strangers[0]!r}",
            why="it has to know what a prompt asks for, and only does for prompts of the shapes world",
            problems=[repr(prompt) for prompt in strangers],
            hint="--verifier clip:MODEL or vlm:MODEL",
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
        judge_folder(verifier)
    return prompts


def judge_identity(word: str) -> str:
    """What identifies the judge behind a word of `--verifier`, for content keys: no path of this machine."""
    folder = judge_folder(word)
    return f"{kind_of(word)} {folder.identity}" if folder else ShapesVerifier.id


@cache
def _shapes_tasks() -> dict[str, GenEvalTask]:
    """What every prompt of the shapes world asks for."""
    every: list[Prompt] = [prompt for split in _SPLITS for tag in TAGS for prompt in prompts_of(tag, split)]
    return {prompt.text: parse_task(prompt.metadata) for prompt in every}
