"""Variants of a recipe: what they share, who is ahead, and the smallest that keeps a target."""

from sanac.run.recipe import Target
from sanac.run.stage_graph import Variant
from sanac.run.target_search import ScreenedVariant, promising
from tests.conftest import Sanac
from tests.run.small import OPEN, write


def test_variants_and_the_front(sanac: Sanac) -> None:
    text = OPEN.replace('scheme = "int8-wo"\n', "").replace("max_ratio = 0.6", "max_ratio = 0.5")
    text += '[matrix]\n"prune.keep" = ["0-9", "0-1,10-11"]\n"quantize.scheme" = ["none", "int8-wo"]\n'
    ran = sanac("run", write(text), "--json", "-q")
    assert ran.code == 0, ran.err
    rows = {row["variant"]: row for row in ran.json["variants"]}
    assert len(rows) == 4
    verbs = [one["verb"] for one in ran.json["stages"]]
    assert (verbs.count("prune"), verbs.count("quantize")) == (2, 2)
    for row in rows.values():
        beaten = any(
            other["bytes"] <= row["bytes"] and other["score"] >= row["score"]
            and (other["bytes"], -other["score"]) != (row["bytes"], -row["score"])
            for other in rows.values()
        )  # fmt: skip
        assert row["ahead"] == (not beaten)
    least = min((row for row in rows.values() if row["passed"]), key=lambda row: row["bytes"])
    assert (ran.json["chosen"], ran.json["out"]) == (least["variant"], least["out"])
    shown = sanac("run", "r.toml").out
    assert shown.count("on the Pareto front") == sum(row["ahead"] for row in rows.values())


def test_a_target(sanac: Sanac) -> None:
    """What is too large is out, what loses too much is passed over, with reasons; the smallest of the rest is taken."""
    text = OPEN.replace('[quantize]\nscheme = "int8-wo"\n', "").partition("[[gate]]")[0]
    text += '[matrix]\n"prune.keep" = ["0-11", "0-9,11", "0-1,10-11"]\n'
    text += '[target]\nmax_bytes = "6.4MB"\nmin_score_ratio = 0.5\nimages = 12\n'
    ran = sanac("run", write(text), "--json", "-q")
    assert ran.code == 0, ran.err
    reasons = ran.json["reasons"]
    assert ran.json["chosen"] == "prune.keep=0-9,11", reasons
    assert any(reason.startswith("prune.keep=0-11: ") and "over 6.4" in reason for reason in reasons)
    assert any(reason.startswith("prune.keep=0-1,10-11: ") for reason in reasons)
    shown = sanac("run", write(text.replace("6.4MB", "1MB")), "-q")
    assert (shown.code, shown.out.count("over 1"), "NO  variants" in shown.out) == (5, 3, True), "each reason once"
    ran = sanac("run", write(text.replace("0.5", "1.5")), "--json", "-q")
    assert (ran.code, ran.json["chosen"]) == (5, None)
    assert "no candidate meets every limit" in ran.json["reasons"][-1]
    assert not ran.json["checks"][0]["passed"], "who reads verdicts alone sees it, too"


def test_what_is_not_measured_further() -> None:
    """Surely worse than one that is no larger; a lower score alone is not enough where the intervals meet."""
    seen = {"small": (100, 0.60, 0.65, 0.70), "good": (200, 0.85, 0.90, 0.95), "near": (200, 0.80, 0.84, 0.88)}
    seen |= {"worse": (210, 0.70, 0.75, 0.80), "large": (400, 0.95, 0.97, 0.99)}
    looks = [ScreenedVariant(Variant(name, {}, ()), *numbers) for name, numbers in seen.items()]
    reasons: list[str] = []
    found = promising(looks, Target(max_bytes=300), reasons)
    assert [look.variant.name for look in found] == ["small", "good", "near"]
    assert reasons[0] == "worse: dropped after screening: score 0.750; good is no larger and has 0.900"
    assert reasons[1:] == ["large: 400 B, over 300 B"]
