"""Options of the verbs whose choices images confirm: the user's own prompts, and what scores their images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from sanac.core.settings import Naming, Option
from sanac.judge.words import check_word

CONFIRM = "Confirmation options"  # their group in help
SIMILARITY = "similarity to the whole model's images (MS-SSIM)"  # what scores images where no verifier does

ConfirmPrompts = Annotated[
    Path | None, Option("Your own prompts, one per line, for --confirm prompts.", "FILE", group=CONFIRM)
]
ConfirmVerifier = Annotated[
    str | None,
    Option(
        "What scores the images of --confirm prompts: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL.",
        "NAME",
        SIMILARITY,
        check=check_word,
        group=CONFIRM,
    ),
]


def confirm_contradictions(
    confirm: str | None, prompts: Path | None, verifier: str | None, name: Naming
) -> Iterator[tuple[str, str]]:
    """Prompts or a verifier that nothing would use, and a confirmation without its prompts."""
    if confirm == "prompts" and prompts is None:
        yield (
            "confirm_prompts",
            f"{name('confirm')} prompts needs {name('confirm_prompts')}, a file with a prompt per line",
        )
    for idle, value in (("confirm_prompts", prompts), ("verifier", verifier)):
        if confirm != "prompts" and value is not None:
            yield idle, f"{name(idle)} only applies with {name('confirm')} prompts"
