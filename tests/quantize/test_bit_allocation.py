"""Budgets: kept to, spent well, cheap to change, and what is said where they can't be kept."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.job import WriteOptions
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.quantize import bit_allocation
from sanac.quantize.allocation_units import UNQUANTIZED
from sanac.quantize.bit_allocation import Budget, allocating
from sanac.quantize.sensitivity import SensitivityEvaluator
from tests.conftest import Sanac

BRIEFLY = ("--num-prompts", "2", "--timesteps", "4")
FEW = ("*.attn1.to_[qkv].weight", "*.attn2.to_q.weight", "*.attn2.to_out.0.weight")


@pytest.fixture
def three(sanac: Sanac) -> Path:
    """Three trained blocks."""
    assert sanac("prune", "sanac:tiny", "--keep", "0,5,11", "--out", "three").code == 0
    return Path("three")


@pytest.fixture
def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions are asked at a time."""
    real, counts = SensitivityEvaluator.errors, list[int]()

    def counted(self: SensitivityEvaluator, questions: list[object]) -> Iterator[list[float]]:
        counts.append(len(questions))
        return real(self, questions)

    monkeypatch.setattr(SensitivityEvaluator, "errors", counted)
    return counts


def test_no_other_choice_is_better_by_a_hundredth(three: Path, one_thread: None) -> None:
    """All 512 choices of nine weights, measured as a whole."""
    budget = Budget(max_bytes=10**9, among=("int4-wo",), leave=FEW)
    looked = CalibrationSettings(num_prompts=2, timesteps=4)
    job = allocating(open_model(locate(str(three))), budget, looked, WriteOptions(), Path("ws"), NULL_REPORTER)
    names = [unit.name for unit in job.units.all]
    assert len(names) == 9
    choices = [
        dict(zip(names, picked, strict=True)) for picked in itertools.product((UNQUANTIZED, "int4-wo"), repeat=9)
    ]
    asking = bit_allocation._SensitivityCache(job, NULL_REPORTER)
    with torch.no_grad():
        found = [
            error for some in asking.evaluator.errors([job.units.assignment(how) for how in choices]) for error in some
        ]
    sizes = [job.units.size(how) for how in choices]
    for share in (0.2, 0.5, 0.8):
        most = round(min(sizes) + share * (max(sizes) - min(sizes)))
        best = min(error for error, size in zip(found, sizes, strict=True) if size <= most)
        budget = Budget(max_bytes=most, among=("int4-wo",), leave=FEW)
        model = open_model(locate(str(three)))
        allocation = allocating(model, budget, looked, WriteOptions(), Path("ws"), NULL_REPORTER).run(NULL_REPORTER)
        assert allocation.best.bytes <= most
        assert allocation.best.error <= 1.01 * best


def test_a_budget_is_kept_and_beats_uniform_schemes(sanac: Sanac, three: Path, asked_of: list[int]) -> None:
    sizes = {}
    for scheme in ("int8-wo", "int4-wo"):
        assert sanac("quantize", three, "--scheme", scheme, "--out", scheme).code == 0
        sizes[scheme] = open_model(locate(scheme)).weights.size
    for most in (sizes["int4-wo"], (sizes["int4-wo"] + sizes["int8-wo"]) // 2, sizes["int8-wo"]):
        ran = sanac("quantize", three, "--max-bytes", most, *BRIEFLY, "--out", f"q{most}", "--json")
        assert ran.code == 0, ran.err
        found = ran.json["allocation"]
        size = open_model(locate(f"q{most}")).weights.size
        assert size == found["bytes"] <= most
        assert all(found["error"] <= other["error"] for other in found["beside"] if other["bytes"] <= most)
    assert asked_of[0] == 3 * 8 * 2
    assert max(asked_of[1:]) <= bit_allocation.TOGETHER, "another budget asks about no weight again"
    assert found["error"] < 1e-4


def test_what_is_written_is_what_was_chosen(sanac: Sanac, three: Path) -> None:
    ran = sanac("quantize", three, "--max-bytes", "600KB", *BRIEFLY, "--out", "q", "--explain", "--json")
    assert ran.code == 0, ran.err
    quantized = open_model(locate("q")).weights.quantized
    units = {row["unit"]: row for row in ran.json["allocation"]["units"]}
    assert {row["scheme"] for row in units.values()} == {"int8-wo", "int4-wo"}
    assert {name: how.scheme for name, how in quantized.weights.items()} == {
        name: row["scheme"] for name, row in units.items()
    }
    report = json.loads(Path("q/measurements/allocation.json").read_text())
    assert len(report["units"]) == 3 * 8
    with Image.open("q/measurements/allocation.png") as picture:
        assert len(set(picture.convert("RGB").getdata())) > 20
    shown = sanac("quantize", three, "--max-bytes", "600KB", *BRIEFLY, "--out", "q", "--explain")
    assert "cached" in shown.out
    assert "transformer_blocks.1.ff.conv_point.weight" in shown.out
    assert sanac("generate", "q", "a red circle", "--steps", "2", "--out", "pictures").code == 0


def test_a_wanted_ratio_is_reached_by_few_bytes(sanac: Sanac, three: Path) -> None:
    sizes = []
    for wanted in (25.0, 35.0, 60.0):
        ran = sanac("quantize", three, "--min-sqnr", wanted, *BRIEFLY, "--out", f"q{wanted}", "--json")
        assert ran.code == 0, ran.err
        found = ran.json["allocation"]
        assert found["error"] == 0 or -10 * math.log10(found["error"]) >= wanted
        sizes.append(found["bytes"])
    assert sizes[0] < sizes[1] < sizes[2]


def test_bits_of_the_text_encoder_are_weighed_against_the_transformer_s(sanac: Sanac, three: Path) -> None:
    both = ("--component", "transformer", "--component", "text-encoder")
    before = {part.name: part.weights.size for part in open_model(locate(str(three))).components if part.weights}
    most = round(0.45 * (before["transformer"] + before["text_encoder"]))
    ran = sanac("quantize", three, *both, "--max-bytes", most, *BRIEFLY, "--out", "q", "--explain", "--json")
    assert ran.code == 0, ran.err
    kinds = {row["component"] for row in ran.json["allocation"]["units"]}
    assert kinds == {"transformer", "text_encoder"}
    after = {part.name: part.weights.size for part in open_model(locate("q")).components if part.weights}
    assert after["transformer"] + after["text_encoder"] == ran.json["allocation"]["bytes"] <= most
    assert all(row["errors"]["int4-wo"] > 0 for row in ran.json["allocation"]["units"])
    assert sanac("generate", "q", "a red circle", "--steps", "2", "--out", "pictures").code == 0


def test_a_stopped_run_asks_only_what_is_left(
    sanac: Sanac, three: Path, monkeypatch: pytest.MonkeyPatch, asked_of: list[int]
) -> None:
    how = ("--max-bytes", "600KB", *BRIEFLY, "--out", "q")

    def evaluator(*arguments) -> SensitivityEvaluator:
        return SensitivityEvaluator(*arguments[:-1], at_once=10)

    monkeypatch.setattr(bit_allocation, "SensitivityEvaluator", evaluator)
    kept, real = [], bit_allocation.store_cached

    def stopping(file: Path, found: dict[str, dict[str, float]]) -> None:
        kept.append(len(found["errors"]))
        real(file, found)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bit_allocation, "store_cached", stopping)
    assert sanac("quantize", three, *how).code == 130
    assert not Path("q").exists()
    assert sanac("quantize", three, *how).code == 0
    assert kept[1] == 20
    assert asked_of[:2] == [48, 28]
    asked_of.clear()
    again = sanac("quantize", three, *how, "--leave", "*.0.attn1.to_q.weight", "--force")
    assert again.code == 0
    assert max(asked_of) <= bit_allocation.TOGETHER, "what was measured alone holds whatever else is left"
    asked_of.clear()
    assert sanac("quantize", three, *how, "--fresh", "--force").code == 0
    assert asked_of[0] == 48


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "is required"),
        ("--scheme int8-wo --max-bytes 1GB", "contradict each other"),
        ("--max-bytes 1GB --min-sqnr 30", "contradict each other"),
        ("--max-bytes 100KB", "can't be reached"),
        ("--max-bytes 100KB", "the minimum is"),
        ("--max-bytes 1GB --among int9", "'int9', not one of"),
        ("--max-bytes 1GB --among int8", "'int8', not one of"),
        ("--max-bytes 1GB --among ,", "names nothing"),
        ("--max-bytes 1GB --block 32", "only applies with --scheme"),
        ("--max-bytes 1GB --rounding gptq", "gptq"),
        ("--max-bytes 1GB --component vae", "can't be allocated to the"),
        ("--min-sqnr nan", "not a number"),
        ("--max-bytes=", "not a size"),
        ("--max-bytes 1GB --include ends", "only applies to schemes with activations"),
        ("--scheme int8-wo --explain", "only applies with --max-bytes"),
    ],
)
def test_bad_requests(sanac: Sanac, pipeline: Path, options: str, words: str) -> None:
    ran = sanac("quantize", pipeline, *options.split(), "--out", "q")
    assert (ran.code in {2, 4}, words in ran.err) == (True, True), ran.err
    assert not Path("q").exists()


def test_a_dry_run_of_a_budget_measures_nothing(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac("quantize", pipeline, "--max-bytes", "3MB", "--dry-run", "--out", "q")
    assert (ran.code, "would compute the sensitivity measurement first" in ran.out) == (0, True), ran.err
    assert "about" in ran.err
    assert not Path("q").exists()


def test_what_needs_no_budget_is_not_written(sanac: Sanac, three: Path) -> None:
    ran = sanac("quantize", three, "--max-bytes", "1GB", *BRIEFLY, "--out", "q")
    assert (ran.code, "needs no quantization" in ran.err) == (2, True), ran.err
    ran = sanac("quantize", three, "--min-sqnr", "150", *BRIEFLY, "--out", "q")
    assert (ran.code, "the best uniform scheme" in ran.err) == (2, True), ran.err
    assert not Path("q").exists()


def test_what_is_in_the_way_is_said_before_anything_is_measured(sanac: Sanac, three: Path, asked_of: list[int]) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    ran = sanac("quantize", three, "--max-bytes", "600KB", *BRIEFLY, "--out", "mine")
    assert (ran.code, "did not write" in ran.err) == (2, True)
    assert not asked_of


def test_batches_change_nothing(three: Path, one_thread: None) -> None:
    from dataclasses import replace

    looked = CalibrationSettings(num_prompts=5, timesteps=4)
    budget = Budget(max_bytes=10**9)
    job = allocating(open_model(locate(str(three))), budget, looked, WriteOptions(), Path("ws"), NULL_REPORTER)
    asking = bit_allocation._SensitivityCache(job, NULL_REPORTER)
    questions = [job.units.assignment(how) for how in list(asking.names.values())[:6]]
    whole = asking.evaluator
    with torch.no_grad():
        parts = replace(whole, states=replace(whole.states, batch=2), at_once=4)
        one, other = ([error for some in where.errors(questions) for error in some] for where in (whole, parts))
    assert one == pytest.approx(other, rel=1e-3, abs=1e-10)  # 1e-8 is what the last bits make


def test_hours_are_announced(sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanac.nn.calibration.cost.PATIENCE", 0.0)
    ran = sanac("quantize", pipeline, "--max-bytes", "3MB", "--out", "q")
    assert (ran.code, "--yes" in ran.err) == (4, True)
