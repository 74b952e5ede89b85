"""Opens verifiers by the words of `--verifier`: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL; several are an ensemble."""

from collections.abc import Sequence

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.judge.model_folder import judge_folder
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import KeptScores, RankEnsemble, Verifier
from sanac.judge.words import kind_of


def open_verifier(words: Sequence[str], device: str, kept: ConfinedPath) -> Verifier:
    """The verifier of these words, each with its scores kept in a file of the folder `kept`; nothing is downloaded."""
    found = tuple(open_kept(word, device, kept) for word in words)
    return found[0] if len(found) == 1 else RankEnsemble(found)


def open_kept(word: str, device: str, kept: ConfinedPath) -> KeptScores:
    """The verifier of one word, with its scores kept in a file of the folder `kept`."""
    verifier = _open(word, device)
    return KeptScores(verifier, kept / f"scores-{json_files.key_of(verifier.id)[:8]}.json")


def _open(word: str, device: str) -> Verifier:
    kind, folder = kind_of(word), judge_folder(word)
    if folder is None:
        return ShapesVerifier()
    from sanac.judge.clip_score import ClipVerifier
    from sanac.judge.questions import FINAL
    from sanac.judge.yes_no import AtomsVerifier, YesNoModel, YesNoVerifier

    if kind == "clip":
        return ClipVerifier.open(folder, device)
    judge = YesNoModel.open(folder, device)
    return YesNoVerifier(judge, FINAL) if kind == "vlm" else AtomsVerifier(judge.probability, judge.id)
