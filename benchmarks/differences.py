"""Differences that pages quote, made from journals of pictures and losses: docs/results/differences.json.

python benchmarks/differences.py               (a quarter of a minute; trains and generates nothing)

Paired: by test prompt in methods-*.json and recovery-*.json, by batch of fresh scenes in growth.json.
The file keeps a digest of each journal, by which a test sees that it is out of date.
"""

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.judged import scores_of
from sanac.judge.intervals import paired_difference

RESULTS = Path("docs/results")
RESULT = RESULTS / "differences.json"
METHODS = {"sanac:tiny": "methods-sanac-tiny.json", "control": "methods-control.json"}
BEST = {  # the best of a hundred steps on tuning prompts: the setting that was opened to test prompts first
    8: "search+compensate data-free 100 test",
    6: "search+compensate distill+features 100 test",
    4: "bi distill+features 100 test",
}
GROWN, SCRATCH = "cyclic 2600 0.004 of 6500 0.004", "scratch 6500 0.004"
JOURNALS = (*METHODS.values(), *(f"recovery-{depth}.json" for depth in BEST), "depth.json", "growth.json")


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """The score of `one` minus that of `other`, and its 95 % interval."""
    found = paired_difference(scores_of(one), scores_of(other)).interval
    return {"value": found.value, "low": found.low, "high": found.high}


def methods(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Search minus importance, by depth."""
    return {str(depth): difference(cells[f"search-{depth}"], cells[f"bi-{depth}"]) for depth in (8, 6)}


def recovery(depth: int, cells: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """A hundred steps: their share of the whole model's score, how far they are behind training from scratch."""
    best, scratch, scores = cells[BEST[depth]], cells["from scratch 0 test"], scores_of(whole)
    score = sum(one.right for one in scores) / sum(one.images for one in scores)
    thousand = [cell["overall"]["value"] for name, cell in cells.items() if name.endswith(" 1000 tune")]
    return {
        "share": best["overall"]["value"] / score,
        "scratch": scratch["overall"]["value"],
        "behind": difference(scratch, best),
        "best of 1000 steps, tuning prompts": max(thousand),
    }


def main() -> None:
    """Write the differences."""
    texts = {name: (RESULTS / name).read_bytes() for name in JOURNALS}
    journals = {name: json.loads(text) for name, text in texts.items()}
    whole = max(journals["depth.json"]["models"]["sanac:tiny"]["cells"], key=lambda cell: cell["depth"])
    growth = journals["growth.json"]
    found = {
        "search minus bi": {name: methods(journals[file]["cells"]) for name, file in METHODS.items()},
        "recovery": {str(depth): recovery(depth, journals[f"recovery-{depth}.json"]["cells"], whole) for depth in BEST},
        "grown minus scratch": statistics.mean(growth[GROWN]["test"]) - statistics.mean(growth[SCRATCH]["test"]),
        "journals": {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()},
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
