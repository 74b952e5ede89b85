"""Opens verifiers by the words of `--verifier`: shapes, judge:, clip:, vlm:, atoms:MODEL; several are an ensemble."""

from collections.abc import Sequence

from sanac.core import json_files
from sanac.core.confined import ConfinedPath
from sanac.judge.judge_files import JudgeFiles
from sanac.judge.requests import judge_behind
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
    return KeptScores(verifier, kept / f"scores-{json_files.key_of(verifier.id)[:8]}.jsonl")


def _open(word: str, device: str) -> Verifier:
    kind, judge = kind_of(word), judge_behind(word)
    if judge is None:
        return ShapesVerifier()
    if isinstance(judge, JudgeFiles):
        from sanac.judge.preview_judge import PreviewJudgeVerifier

        return PreviewJudgeVerifier.open(judge, device)
    from sanac.judge.clip_score import ClipVerifier
    from sanac.judge.questions import FINAL
    from sanac.judge.yes_no import AtomsVerifier, YesNoModel, YesNoVerifier

    if kind == "clip":
        return ClipVerifier.open(judge, device)
    model = YesNoModel.open(judge, device)
    return YesNoVerifier(model, FINAL) if kind == "vlm" else AtomsVerifier(model.probability, model.id)
