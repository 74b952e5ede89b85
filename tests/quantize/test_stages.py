"""Quantization among other stages: what comes before it, what can follow, and training for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sanac as package
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.finetune.plan import plan_finetune
from sanac.finetune.settings import FinetuneSettings
from tests.conftest import Sanac
from tests.quantize.packed import BRIEFLY, inputs, tensors_of


@pytest.mark.slow
def test_training_for_four_bits_makes_four_bits_better(sanac: Sanac, half: Path, one_thread: None) -> None:
    job = ("finetune", half, "--data", "shapes", "--samples", "64", "--batch", "16", "--steps", "100")
    ran = sanac(*job, "--fake-quant", "int4-wo", "--out", "tuned", "--json")
    assert ran.code == 0, ran.err
    errors = []
    for source in (half, "tuned"):
        assert sanac("quantize", source, "--scheme", "int4-wo", "--out", f"q{len(errors)}").code == 0
        found = package.load_pipeline(f"q{len(errors)}", "cpu").transformer
        reference = package.load_pipeline(half, "cpu").transformer
        given = tuple(tensor.float() for tensor in inputs())
        with torch.no_grad():
            apart = found(*given, return_dict=False)[0] - reference(*given, return_dict=False)[0]
        errors.append(float(apart.square().mean()))
    assert errors[1] < 0.95 * errors[0], errors
    with_lora = sanac(*job, "--fake-quant", "int4-wo", "--lora", "4", "--out", "x")
    assert (with_lora.code, "--lora" in with_lora.err) == (2, True)
    assert sanac(*job, "--fake-quant", "int5", "--out", "x").code == 2


def test_every_layout_can_be_quantized(sanac: Sanac, half: Path, sharded: Path) -> None:
    assert sanac("prune", half, "--keep", "0,2,4", "--out", "pruned").code == 0
    assert sanac("finetune", "pruned", *BRIEFLY, "--out", "tuned").code == 0
    assert sanac("convert", "tuned", "--to", "nvlabs", "--out", "nvlabs").code == 0
    assert sanac("convert", "tuned", "--to", "single", "--out", "single").code == 0
    found = []
    for source in ("tuned", "nvlabs", "single"):
        ran = sanac("quantize", source, "--scheme", "int4-wo", "--transformer-only", "--out", f"{source}-q")
        assert ran.code == 0, ran.err
        found.append(tensors_of(Path(f"{source}-q/transformer")))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])
    whole = sanac("quantize", sharded, "--scheme", "int8-wo", "--out", "q")
    assert whole.code == 0, "fp32"


def test_what_was_made_last_is_quantized(sanac: Sanac, half: Path) -> None:
    sanac("prune", half, "--keep", "0-2", "--out", "sanac-out/small")
    ran = sanac("quantize", "--scheme", "int8-wo", "--json")
    assert ran.code == 0, ran.err
    assert len(open_model(locate(ran.json["out"])).manifest.lineage) == 3


@pytest.mark.parametrize(
    "verb",
    [
        ("quantize", "--scheme", "int8-wo"),
        ("prune", "--keep", "0-2"),
        ("grow", "--target-blocks", "8"),
        ("convert", "--to", "single"),
    ],
)
def test_what_is_quantized_is_not_changed_again(sanac: Sanac, half: Path, verb: tuple[str, ...]) -> None:
    assert sanac("quantize", half, "--scheme", "int4-wo", "--out", "q").code == 0
    ran = sanac(verb[0], "q", *verb[1:], "--out", "other")
    assert ran.code == 2
    assert "quantized" in ran.err
    assert "the unquantized model" in ran.err
    assert not Path("other").exists()


@pytest.mark.parametrize("scheme", ["int8-wo", "int4-wo"])
def test_what_reads_captions_and_pictures_is_quantized(sanac: Sanac, half: Path, scheme: str) -> None:
    """A transformer is analyzed, pruned, trained and fitted by a quantized text encoder and autoencoder."""
    others = ("--component", "text-encoder", "--component", "vae")
    assert sanac("quantize", half, "--scheme", scheme, *others, "--out", "q").code == 0
    few = ("--num-prompts", "3", "--timesteps", "2")
    for job in (
        ("analyze", "q", *few),
        ("prune", "q", "--target-blocks", "5", "--select", "bi", *few, "--out", "five"),
        ("finetune", "five", *BRIEFLY, "--out", "tuned"),
        ("quantize", "tuned", "--scheme", "int4-wo", "--rounding", "gptq", *few, "--out", "all"),
        ("generate", "all", "a red circle", "--steps", "2", "--out", "pictures"),
    ):
        ran = sanac(*job)
        assert ran.code == 0, ran.err
    schemes = {
        part.name: {packing.scheme for packing in part.weights.quantized.weights.values()}
        for part in open_model(locate("all")).components
        if part.weights
    }
    assert schemes == {"transformer": {"int4-wo"}, "text_encoder": {scheme}, "vae": {scheme}}


def test_what_is_refused_is_refused_at_once(sanac: Sanac, half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sanac("quantize", half, "--scheme", "int8-wo", "--out", "q").code == 0
    monkeypatch.setattr("sanac.finetune.plan.choose_data", lambda *_: pytest.fail("data was prepared"))
    monkeypatch.setattr("sanac.prune.scoring.ScoringJob.compute", lambda *_: pytest.fail("blocks were measured"))
    for job in (("finetune", "q", "--data", "shapes"), ("prune", "q", "--target-blocks", "3")):
        ran = sanac(*job, "--out", "other")
        assert (ran.code, "quantized" in ran.err) == (2, True), ran.err


def test_training_for_it_is_counted(sanac: Sanac, half: Path, tmp_path: Path) -> None:
    """Autograd keeps every restored weight until its gradient is there."""
    wanted = FinetuneSettings(data="shapes", samples=16, batch=4)
    model = open_model(locate(str(half)))
    plain, rounded = (
        plan_finetune(model, replace(wanted, fake_quant=scheme), tmp_path, NULL_REPORTER).training.memory
        for scheme in (None, "int4-wo")
    )
    counted = sum(how.shape[0] * how.columns for how in quantized_by(half, sanac).values())
    assert rounded.activations - plain.activations == 4 * counted


def quantized_by(model: Path, sanac: Sanac) -> dict[str, object]:
    sanac("quantize", model, "--scheme", "int4-wo", "--out", "by")
    return open_model(locate("by")).weights.quantized.weights


def test_who_teaches_what_is_trained_for_rounding(sanac: Sanac, half: Path) -> None:
    """What was only pruned still has to come back; what was recovered is its own measure."""
    sanac("prune", half, "--keep", "0-2", "--out", "pruned")
    sanac("finetune", "pruned", *BRIEFLY, "--out", "recovered")
    assert taught("pruned") == open_model(locate(str(half))).identity()
    assert taught("recovered") == open_model(locate("recovered")).identity()
    assert taught(str(half)) == open_model(locate(str(half))).identity()


def taught(model: str) -> str:
    wanted = FinetuneSettings(data="shapes", samples=16, batch=4, fake_quant="int4-wo")
    return plan_finetune(open_model(locate(model)), wanted, Path("ws"), NULL_REPORTER).teacher.identity()
