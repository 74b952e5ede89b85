"""The verbs that take a token generator as MODEL, as they are typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sanac as package
from sanac.api import SanaModel
from sanac.core.errors import UsageError
from tests.conftest import Sanac

QUICK = ("--steps", "3")


def test_generate_writes_images_that_follow_from_their_seeds(sanac: Sanac, token_model: Path) -> None:
    ran = sanac("generate", token_model, "a red circle", "--n", "3", *QUICK, "--json")
    assert ran.code == 0, ran.err
    first = [np.asarray(Image.open(f"pictures/a-red-circle-{seed}.png")) for seed in range(3)]
    assert first[0].shape == (16, 16, 3)
    assert not np.array_equal(first[0], first[1])
    about = Image.open("pictures/a-red-circle-1.png").text
    assert json.loads(about["settings"]) == {
        "guidance": 1.75, "order": "confidence", "steps": 3, "temperature": 1.0,
    }  # fmt: skip
    again = sanac("generate", token_model, "a red circle", "--seed", "1", *QUICK, "--out", "again")
    assert again.code == 0
    same = np.asarray(Image.open("again/a-red-circle-1.png")).astype(int)
    assert np.abs(same - first[1]).max() <= 1
    halton = sanac("generate", token_model, "a red circle", *QUICK, "--order", "halton")
    assert halton.code == 2
    assert "its order is confidence, this command's is halton" in halton.err


def test_words_that_it_doesnt_know_are_named(sanac: Sanac, token_model: Path) -> None:
    ran = sanac("generate", token_model, "a red lighthouse", *QUICK)
    assert "not in the model's vocabulary, and have no effect: lighthouse" in ran.err


def test_a_search_keeps_its_budget_and_goes_on(sanac: Sanac, token_model: Path) -> None:
    words = ("generate", token_model, "a red circle", "--search", "gated", "--look", "2", "--n", "4", *QUICK)
    ran = sanac(*words, "--verifier", "judge:sanac:tiny", "--max-forwards", "20", "--json")
    assert ran.code == 0, ran.err
    assert 0 < ran.json["spent"]["forwards"] <= 20
    again = sanac(*words, "--verifier", "judge:sanac:tiny", "--max-forwards", "20", "--json")
    assert again.json["prompts"] == ran.json["prompts"]
    states = sanac(*words, "--verifier", "shapes", "--previews", "states:sanac:tiny", "--out", "other")
    assert states.code == 2
    assert "it reads the states of a SANA model" in states.err


def test_a_draft_is_of_the_same_kind(sanac: Sanac, token_model: Path, pipeline: Path) -> None:
    words = ("generate", token_model, "a red circle", "--search", "two-stage", "--verifier", "shapes", "--n", "2")
    assert sanac(*words, "--steps", "4").code == 0
    ran = sanac(*words, "--draft", pipeline, "--out", "other")
    assert ran.code == 2
    assert "one is a token generator, the other is not" in ran.err


def test_evaluate_scores_it_and_its_search(sanac: Sanac, token_model: Path) -> None:
    words = ("evaluate", token_model, "--suite", "shapes", "--images", "12", *QUICK, "--json")
    ran = sanac(*words, "--out", "found")
    assert ran.code == 0, ran.err
    assert ran.json["sampling"] == {"guidance": 1.75, "order": "confidence", "steps": 3, "temperature": 1.0}
    search = ("--search", "best-of", "--n", "2", "--search-verifier", "judge:sanac:tiny")
    ran = sanac(
        "evaluate", token_model, "--suite", "shapes", "--images", "12", *QUICK, *search, "--out", "best", "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.json["search"]["spent"]["forwards"] == 2 * 3 * 2 * 18


def test_evaluate_compares_it_on_the_users_prompts(sanac: Sanac, token_model: Path, pipeline: Path) -> None:
    Path("mine.txt").write_text("a red circle\ntwo blue squares\n")
    words = ("--suite", "prompts", "--prompts", "mine.txt", *QUICK, "--verifier", "judge:sanac:tiny", "--json")
    alike = sanac("evaluate", token_model, *words, "--against", token_model, "--out", "alike")
    assert alike.code == 0, alike.err
    assert alike.json["identical"]["value"] == 1
    assert sanac("evaluate", token_model, *words, "--against", token_model, "--out", "alike").code == 0
    other = sanac("evaluate", token_model, *words, "--against", pipeline, "--out", "other")
    assert other.code == 0, other.err
    assert "similarity is left out" in " ".join(other.json["notes"])


def test_bench_times_its_parts(sanac: Sanac, token_model: Path) -> None:
    ran = sanac("bench", token_model, "--rounds", "1", *QUICK, "--json")
    assert ran.code == 0, ran.err
    (subject,) = ran.json["subjects"] if "subjects" in ran.json else ran.json["models"]
    assert {"step", "decoder", "image"} <= subject["batches"]["1"]["seconds"].keys()
    ran = sanac("bench", token_model, "--backend", "onnx")
    assert ran.code == 2
    assert "has nothing exported" in ran.err


def test_python_opens_it_too(token_model: Path, tmp_path: Path) -> None:
    model = package.open(token_model, workspace=tmp_path)
    assert model.blocks == 2
    assert model.size == sum(file.stat().st_size for file in token_model.rglob("*.safetensors")) - model_headers(model)
    assert "Show-o" in model._repr_html_()
    with pytest.raises(UsageError, match="works on SANA models only"):
        model.prune(keep="0")
    with pytest.raises(UsageError, match="works on SANA models only"):
        model.pipeline()


def model_headers(model: SanaModel) -> int:
    parts = [part.weights for part in model.opened.components if part.weights]
    return sum(8 + len(header.raw) for weights in parts for header in weights.headers)
