"""`evaluate --suite prompts`: the user's own prompts, against a reference and by judges; stopped runs go on."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanac.core.context import Context
from sanac.core.progress import NullReporter
from sanac.core.settings import build
from sanac.verify import evaluate_job
from sanac.verify.evaluate_settings import EvaluateSettings
from tests.conftest import Ran, Sanac, Shared, sanac_must
from tests.judge.small_judges import save_clip

PROMPTS = "two red circles\n\n  a circle above a square\nthree green triangles\n"
FAST = ("--steps", "3", "--batch", "2")


@pytest.fixture(scope="module")
def four(shared: Shared) -> Path:
    """Four blocks of sanac:tiny: much worse than all twelve."""
    return shared("four-blocks", lambda out: sanac_must("prune", "sanac:tiny", "--keep", "0,3,7,11", "--out", out))


@pytest.fixture(scope="module")
def clip(shared: Shared) -> Path:
    """A small random CLIP."""

    def making(folder: Path) -> None:
        folder.mkdir()
        save_clip(folder)

    return shared("small-clip", making)


@pytest.fixture
def evaluate(sanac: Sanac) -> Callable[..., Ran]:
    """`sanac evaluate MODEL --suite prompts` of three prompts, into the folder `out`."""

    def call(model: object, *words: object) -> Ran:
        Path("mine.txt").write_text(PROMPTS)
        return sanac("evaluate", model, "--suite", "prompts", "--prompts", "mine.txt", *FAST, "--out", "out", *words)

    return call


def strict(path: Path) -> dict[str, Any]:
    """A JSON file without NaN and Infinity."""

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def metrics(suffix: str = "") -> Mapping[str, float]:
    """What gates read."""
    found = strict(Path("out/measurements/metrics.json"))
    start = f"evaluate-prompts{suffix}/"
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/measurements/evaluate-prompts.jsonl").read_text().splitlines()]


def test_a_pruned_model_is_worse_and_every_image_has_its_line(
    evaluate: Callable[..., Ran], sanac: Sanac, four: Path, clip: Path
) -> None:
    ran = evaluate(four, "--against", "sanac:tiny", "--each", "2", "--verifier", f"shapes,clip:{clip}")
    assert ran.code == 0, ran.err
    found, every = metrics(), lines()
    assert [line["prompt"] for line in every] == [p for p in map(str.strip, PROMPTS.split("\n")) if p for _ in range(2)]
    assert [line["seed"] for line in every] == list(range(6)), "a noise per image"
    assert 5 < found["psnr"] < 40
    assert 0 < found["ssim"] < 1
    assert found["ms_ssim_distance"] > 0.02
    assert found["clip_feature_distance"] > 0
    assert found["shapes_difference.high"] < 0, "four blocks of twelve draw no shapes"
    for name in ("psnr", "ms_ssim_distance", "clip", "clip_reference", "shapes", "clip_feature_distance"):
        values = [line[name] for line in every]
        assert found[name] == pytest.approx(np.mean(values))
        by_prompt = np.asarray(values).reshape(3, 2).mean(axis=1)
        assert by_prompt.min() <= found[f"{name}.low"] + 1e-9
        assert found[f"{name}.low"] <= found[name] <= found[f"{name}.high"] <= by_prompt.max() + 1e-9
    assert found["clip_difference"] == pytest.approx(found["clip"] - found["clip_reference"])
    assert strict(Path("out/measurements/evaluate-prompts.json"))["means"]["psnr"]["n"] == 3, "prompts, not images"
    names = {line["picture"] for line in every} | {line["reference"] for line in every}
    assert all((Path("out/measurements") / name).is_file() for name in names)
    assert len(names) == 12
    sheet = Image.open("out/measurements/evaluate-prompts.png")
    assert sheet.width > 2 * 224
    assert sheet.height > 6 * 224
    alone = sanac("generate", "sanac:tiny", "two red circles", "--steps", "3", "--out", "alone")
    assert alone.code == 0
    theirs = Path("out/measurements") / every[0]["reference"]
    one, other = (np.asarray(Image.open(path)).astype(int) for path in ("alone/two-red-circles-0.png", theirs))
    assert np.abs(one - other).max() <= 1, "generate's own noise"
    for line in ("similarity", "clip_feature_distance", "reference  difference", "evaluate-prompts.png"):
        assert line in ran.out


def test_a_model_is_identical_to_itself(evaluate: Callable[..., Ran], clip: Path) -> None:
    ran = evaluate("sanac:tiny", "--against", "sanac:tiny", "--verifier", f"clip:{clip}", "--json")
    assert ran.code == 0, ran.err
    found = metrics()
    same = {"psnr": 100, "ssim": 1, "ms_ssim_distance": 0, "identical": 1}
    for name, value in {**same, "clip_difference": 0, "clip_feature_distance": 0}.items():
        assert found[name] == found[f"{name}.low"] == found[f"{name}.high"] == value, name
    assert "Infinity" not in ran.out
    (folder,) = (one for one in Path("out/measurements/evaluate-prompts").iterdir() if one.is_dir())
    assert len(list(folder.iterdir())) == 3, "its images are generated once"


class Stopping(NullReporter):
    """Ctrl-C after so many reports of progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: int, state: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_and_nothing_is_made_twice(evaluate: Callable[..., Ran], four: Path, clip: Path) -> None:
    Path("mine.txt").write_text(PROMPTS)
    given = {"suite": "prompts", "prompts": "mine.txt", "against": "sanac:tiny", "verifier": f"shapes,clip:{clip}"}
    settings = build(EvaluateSettings, {**given, "steps": 3, "batch": 2, "out": "out"})

    def pictures() -> dict[Path, tuple[int, bytes]]:
        every = Path("out/measurements/evaluate-prompts").rglob("*.png")
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in every}

    def kept() -> dict[Path, int]:
        every = Path("out/measurements/evaluate-prompts").glob("*.json*")
        return {path: path.stat().st_mtime_ns for path in every}

    words = ("--against", "sanac:tiny", "--verifier", f"shapes,clip:{clip}")
    seen: dict[Path, tuple[int, bytes]] = {}
    for after, expected in ((0, 2), (1, 5), (4, 6)):  # in the first batch, in the reference's, while clip scores
        with pytest.raises(KeyboardInterrupt):
            evaluate_job.run(str(four), settings, Context(Stopping(after)))
        assert len(pictures()) == expected
        assert {path: pictures()[path] for path in seen} == seen, "kept as they are"
        seen = pictures()
    assert not Path("out/measurements/evaluate-prompts.json").exists()
    scored = kept()
    assert len(scored) == 2, "the shapes detector's scores, and some of clip's"
    assert evaluate(four, *words).code == 0
    assert pictures() == seen
    assert sum(kept()[path] == time for path, time in scored.items()) == 1, "the shapes detector's are complete"
    first, scored = metrics(), kept()
    assert evaluate(four, *words).code == 0
    assert (pictures(), kept()) == (seen, scored), "nothing is generated or scored again"
    assert sorted(path.name.partition("-")[0] for path in scored) == ["distances", "scores", "scores"]
    shutil.rmtree("out")
    assert evaluate(four, *words).code == 0
    assert metrics() == pytest.approx(first, abs=1e-3), "as if it hadn't been stopped"


def test_images_of_something_else_are_neither_taken_nor_replaced(evaluate: Callable[..., Ran], four: Path) -> None:
    assert evaluate(four, "--verifier", "shapes").code == 0
    first = {path: path.read_bytes() for path in Path("out/measurements/evaluate-prompts").rglob("*.png")}
    assert evaluate(four, "--verifier", "shapes", "--guidance", "1").code == 0
    assert evaluate("sanac:tiny", "--verifier", "shapes", "--steps", "2").code == 0
    assert {path: path.read_bytes() for path in first} == first
    assert len(list(Path("out/measurements/evaluate-prompts").rglob("*.png"))) == 3 * len(first)
    path = next(iter(first))
    Image.new("RGB", (64, 64)).save(path)
    ran = evaluate(four, "--verifier", "shapes")
    assert (ran.code, "would be lost" in ran.err) == (2, True)
    path.write_bytes(first[path][: len(first[path]) * 2 // 3])
    ran = evaluate(four, "--verifier", "shapes")
    assert (ran.code, "is not a readable PNG" in ran.err) == (3, True), ran.err


def test_the_winners_of_a_search_are_judged_without_similarity(
    evaluate: Callable[..., Ran], four: Path, clip: Path
) -> None:
    search = ("--search", "best-of", "--n", "2", "--search-verifier", f"clip:{clip}")
    words = (four, "--against", "sanac:tiny", "--verifier", f"shapes,clip:{clip}")
    ran = evaluate(*words, *search)
    assert ran.code == 0, ran.err
    assert "similarity is left out" in ran.err
    assert f"clip:{clip} also chooses the images that it scores" in ran.err
    found = metrics("-best-of-2")
    assert "shapes_difference" in found
    assert "psnr" not in found
    folders = {path.name for path in Path("out/measurements/evaluate-prompts").iterdir() if path.is_dir()}
    assert evaluate(*words).code == 0
    plain = {path.name for path in Path("out/measurements/evaluate-prompts").iterdir() if path.is_dir()}
    assert len(plain - folders) == 1, "single images of the model are others, the reference's are the same"
    assert metrics()["clip"] <= found["clip"]


def test_a_budget_is_for_all_images_and_a_stopped_run_has_its_share(
    evaluate: Callable[..., Ran], four: Path, clip: Path
) -> None:
    words = (four, "--verifier", "shapes", "--search", "best-of", "--n", "2", "--search-verifier", f"clip:{clip}")
    each = 2 * int(FAST[FAST.index("--steps") + 1])  # forward passes of an image
    ran = evaluate(*words, "--max-forwards", 3 * each - 1)
    assert ran.code == 2
    assert f"--max-forwards {3 * each - 1} is too small" in ran.err
    ran = evaluate(*words, "--max-forwards", 4 * each)
    assert ran.code == 0, ran.err
    assert f"best-of over 2 noises: {4 * each // 3} forward passes" in ran.err, "one image was searched"
    first, *_ = Path("out/measurements/evaluate-prompts").glob("*/*.png")
    first.unlink()
    ran = evaluate(*words, "--max-forwards", 4 * each)
    assert ran.code == 0, ran.err
    assert "2 of 3 images are there, and kept" in ran.err
    assert f"best-of over 2 noises: {each} forward passes" in ran.err, "a third of the budget pays for one noise"


def test_other_sizes_keep_their_scores(evaluate: Callable[..., Ran], four: Path, clip: Path) -> None:
    shutil.copytree(four, "larger")
    Path("larger/sanac.json").unlink()
    config = Path("larger/transformer/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 32}))
    ran = evaluate("larger", "--against", four, "--verifier", f"clip:{clip}")
    assert ran.code == 0, ran.err
    assert "images of 128x128 and of 64x64: similarity is left out" in ran.err
    found = metrics()
    assert {"clip", "clip_reference", "clip_difference.low"} <= found.keys()
    assert not {"psnr", "ssim", "ms_ssim_distance", "clip_feature_distance"} & found.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a cat\na dog\na cat\na dog\n", "line 3 repeats line 1: 'a cat'"),
        (b"a cat\na dog\na cat\na dog\n", "line 4 repeats line 2: 'a dog'"),
        (b"a cat\na\tdog\n", "line 2 has the control character U+0009"),
        (b"a cat\0\n", "line 1 has the control character U+0000"),
        ("a cat\u2028a dog\n".encode(), "line 1 has the line separator U+2028"),
        (b"x" * 2001, "line 1 has 2,001 characters, the most are 2,000"),
        (b"\xff\xfe\x00caf\xe9", "is not UTF-8"),
        (b" \n\n", "has no prompts"),
        (b"", "has no prompts"),
        (None, "cannot read mine.txt: "),
    ],
)
def test_a_file_that_is_no_list_of_prompts_names_its_lines(sanac: Sanac, content: bytes | None, said: str) -> None:
    if content is not None:
        Path("mine.txt").write_bytes(content)
    ran = sanac("evaluate", "sanac:tiny", "--suite", "prompts", "--prompts", "mine.txt", "--verifier", "shapes")
    assert ran.code == 3
    assert said in ran.err.replace("\n  ", ": ")
    assert not Path("sanac-out").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--suite", "prompts", "--prompts", "mine.txt"), 2, "needs --against, a model to compare with, or --verifier"),
        (("--suite", "prompts", "--verifier", "shapes"), 2, "--suite prompts needs --prompts"),
        (("--suite", "shapes", "--prompts", "mine.txt"), 2, "--prompts only applies with --suite geneval or prompts"),
        (("--suite", "shapes", "--against", "sanac:tiny"), 2, "--against only applies with --suite prompts"),
        (
            ("--suite", "prompts", "--prompts", "mine.txt", "--images", "2048"),
            2,
            "--images only applies with --suite sh",
        ),
        (("--suite", "prompts", "--prompts", "mine.txt", "--prompts-split", "tune"), 2, "--prompts-split only applies"),
        (("--suite", "prompts", "--prompts", "mine.txt", "--verifier", "shapes"), 2, "can't judge 'a lighthouse'"),
        (("--suite", "prompts", "--prompts", "mine.txt", "--verifier", "clip:no/where"), 4, "is not on this machine"),
        (("--suite", "prompts", "--prompts", "mine.txt", "--against", "nothing"), 2, "there is no nothing"),
        (("--suite", "prompts", "--prompts", "mine.txt", "--verifier", "clap:x"), 2, "names 'clap:x'"),
    ],
)
def test_what_does_not_go_together(sanac: Sanac, words: tuple[str, ...], code: int, said: str) -> None:
    Path("mine.txt").write_text("a lighthouse\n")
    ran = sanac("evaluate", "sanac:tiny", *words)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert not Path("sanac-out").exists(), "nothing was begun"


def test_a_gate_holds_it_to_limits(evaluate: Callable[..., Ran], sanac: Sanac, four: Path) -> None:
    shutil.copytree(four, "artifact")
    assert evaluate("artifact", "--against", "sanac:tiny", "--out", "artifact").code == 0
    gate = '[[gate]]\nmetric = "evaluate-prompts/{}"\nbound = "{}"\n{} = {}\n'
    lax = gate.format("ms_ssim_distance", "high", "max", 0.99) + gate.format("psnr", "low", "min", 1)
    Path("lax.toml").write_text(lax)
    Path("harsh.toml").write_text(lax + gate.format("ssim", "low", "min", 0.999))
    assert sanac("gate", "artifact", "--gates", "lax.toml").code == 0
    ran = sanac("gate", "artifact", "--gates", "harsh.toml")
    assert (ran.code, "1 of 3 limits" in ran.out) == (5, True), ran.out


RECIPE = """\
model = "sanac:tiny"
sheet = false
[prune]
keep = "0,3,7,11"
[evaluate]
suite = "prompts"
prompts = "mine.txt"
against = "source"
steps = 2
baseline = false
[[gate]]
metric = "evaluate-prompts/ms_ssim_distance"
bound = "high"
max = 0.001
"""


def test_a_recipe_compares_with_its_source(sanac: Sanac) -> None:
    Path("mine.txt").write_text(PROMPTS)
    Path("r.toml").write_text(RECIPE)
    ran = sanac("run", "r.toml", "--json", "-q")
    assert ran.code == 5, ran.err
    assert [one["verb"] for one in ran.json["stages"]] == ["prune", "evaluate"]
    found = strict(Path(ran.json["out"]) / "measurements" / "evaluate-prompts.json")
    assert (found["against"], found["prompts"]) == ("sanac:tiny", 3)
