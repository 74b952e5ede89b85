"""The judge of previews: its network, its folder, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.judge.judge_files import PREVIEW_JUDGE as KIND
from sanac.judge.judge_files import judge_files, save_judge
from sanac.judge.preview_judge import LONGEST, JudgeShape, PreviewJudge, PreviewJudgeVerifier
from sanac.judge.verifier import Request

SMALL = JudgeShape(("a", "red", "circle", "square"), side=32, width=16, heads=2, encoder_layers=1, decoder_layers=1)
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
REQUESTS = [Request("a red circle"), Request("a square"), Request("A red, red square")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_judge(PreviewJudge(SMALL), SMALL.to_json(), ConfinedPath(tmp_path) / "small")
    return tmp_path / "small"


def opened(folder: Path) -> PreviewJudgeVerifier:
    return PreviewJudgeVerifier.open(judge_files(str(folder), KIND), "cpu")


def test_an_image_is_judged_alone(folder: Path) -> None:
    """Scores don't depend on the batch, on padding, or on the case of letters."""
    verifier = opened(folder)
    together = verifier.previews(IMAGES, REQUESTS, 0.4)
    for image, request, reading in zip(IMAGES, REQUESTS, together, strict=True):
        (alone,) = verifier.previews([image], [request], 0.4)
        assert alone.potential == pytest.approx(reading.potential, abs=1e-6)
    assert verifier.scores(IMAGES, REQUESTS) == [one.final for one in verifier.previews(IMAGES, REQUESTS, 0.0)]
    assert all(0 < one.clarity < 1 for one in together)


def test_it_sees_image_prompt_and_noise(folder: Path) -> None:
    verifier = opened(folder)
    (first,) = verifier.previews(IMAGES[:1], REQUESTS[:1], 0.4)
    others = [
        verifier.previews(IMAGES[1:2], REQUESTS[:1], 0.4),
        verifier.previews(IMAGES[:1], REQUESTS[1:2], 0.4),
        verifier.previews(IMAGES[:1], REQUESTS[:1], 0.9),
    ]
    assert all(one[0].potential != first.potential for one in others)


def test_other_sizes_are_resized(folder: Path) -> None:
    large = np.kron(IMAGES[0], np.ones((3, 3, 1), np.uint8))
    verifier = opened(folder)
    (one,), (other,) = (verifier.previews([image], REQUESTS[:1], 0.0) for image in (IMAGES[0], large))
    assert one.final == pytest.approx(other.final, abs=0.02)


def test_words_that_it_never_learned_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the words lighthouse, dusk"):
        opened(folder).scores(IMAGES[:1], [Request("a lighthouse a dusk")])


def test_a_long_prompt_is_cut(folder: Path) -> None:
    words = " ".join(["red"] * (LONGEST + 9))
    assert opened(folder).network.encode([words]).shape == (1, LONGEST)


def test_the_identity_is_the_contents(folder: Path) -> None:
    before = judge_files(str(folder), KIND).identity
    weights = load_file(folder / "model.safetensors")
    weights["heads.bias"] += 1
    save_file(weights, folder / "model.safetensors")
    assert judge_files(str(folder), KIND).identity != before


def damaged(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config[name] = change(config.get(name))
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-40])


def not_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["places"][0, 0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors")


def other_tensors(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["extra"] = weights.pop("heads.bias")
    save_file(weights, folder / "model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def led_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged("width", lambda _: 10**9), "config is malformed"),
        (damaged("width", lambda _: "96"), "config is malformed"),
        (damaged("heads", lambda _: 3), "config is malformed"),
        (damaged("words", lambda _: [1]), "config is malformed"),
        (damaged("model_type", lambda _: "bert"), "not a judge"),
        (damaged("width", lambda _: 32), "doesn't fit its config"),
        (cut, "model.safetensors"),
        (not_numbers, "NaN or infinity in places"),
        (other_tensors, "doesn't fit its config"),
        (pickled, "no model.safetensors"),
        (led_outside, "points outside"),
    ],
)
def test_hostile_folders_are_refused(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    with pytest.raises(InvalidInput) as error:
        opened(folder)
    assert said in f"{error.value.message} {error.value.why}"


def test_a_judge_that_is_not_here_is_named() -> None:
    with pytest.raises(MissingResource) as error:
        judge_files("someone/their-judge", KIND)
    assert "hf download someone/their-judge" in f"{error.value.hint}"
