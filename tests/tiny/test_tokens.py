"""The trainer of sanac:tokens: both stages, killed and continued bit by bit, and what its loss is of."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER
from sanac.finetune.shapes_data import captions, lessons
from sanac.nn.stepwise import Noise
from sanac.tiny.reading import lesson_answers
from sanac.tiny.tokens import build
from sanac.tiny.tokens.image_task import ImageTokenizerTask
from sanac.tiny.tokens.token_task import MaskedTokenTask, SceneCodes, _masks
from sanac.tiny.tokens.train import Recipe, main, make
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.tokens.networks import open_networks
from sanac.tokens.sampling import TokenSampling
from sanac.tokens.stepwise import StepwiseTokens
from sanac.tokens.text import TextTokens
from sanac.tokens.transformer import MaskedTokenTransformer
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule

SHORT = Recipe(image_steps=3, scenes=250, steps=3)


def small_task() -> MaskedTokenTask:
    torch.manual_seed(0)
    network = MaskedTokenTransformer(build.architecture())
    text = TextTokens(build.text_tokenizer(), network.architecture, build.BOS, build.EOS)
    codes = torch.randint(512, (40, 64), generator=torch.Generator().manual_seed(1)).short()
    return MaskedTokenTask(network, text, SceneCodes(codes, torch.arange(40), "x"), batch_size=8)


@pytest.mark.usefixtures("one_thread")
def test_both_stages(tmp_path: Path) -> None:
    made = [make(SHORT, tmp_path, NULL_REPORTER) for _ in range(2)]
    assert made[0] == made[1]
    model = open_any_model(locate(str(made[0])))
    assert isinstance(model, TokenModel)
    assert model.architecture == build.architecture()
    assert model.image_architecture == build.tokenizer_architecture()
    averaged = load_file(max((tmp_path / "transformer").glob("step-*.safetensors")))
    for name, weight in load_file(made[0] / "transformer" / "model.safetensors").items():
        assert torch.equal(weight, averaged[f"average/transformer/{name}"].bfloat16()), name
    codes = load_file(tmp_path / "codes.safetensors")["codes"]
    assert codes.shape == (250, 64)
    assert 0 <= codes.min() <= codes.max() < 512


def test_it_is_small_enough_for_the_package(tmp_path: Path) -> None:
    build.save(tmp_path, MaskedTokenTransformer(build.architecture()), ImageTokenizer(build.tokenizer_architecture()))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 4_000_000


def test_every_caption_fits(tmp_path: Path) -> None:
    words = build.text_tokenizer()
    longest = max(len(words.encode(text).ids) for lesson in range(len(lessons())) for text in captions(lesson))
    assert longest + 2 <= build.TEXT_LENGTH
    assert words.token_to_id("<unk>") not in words.encode("Two red circles on a plain background").ids


def test_masks_have_the_cosine_law() -> None:
    masks = _masks(np.random.default_rng(0), 20_000, 64)
    shares = masks.mean(axis=1)
    assert shares.min() > 0
    mean = 2 / math.pi - 0.5 / 64  # of cos(pi u / 2), rounded down
    assert shares.mean() == pytest.approx(mean, abs=0.005)
    assert (shares > math.cos(math.pi / 4)).mean() == pytest.approx(0.5, abs=0.02)
    assert masks.mean(axis=0) == pytest.approx(np.full(64, mean), abs=0.02), "every place alike"


def test_the_loss_of_a_model_that_knows_nothing() -> None:
    task = small_task()
    torch.nn.init.zeros_(task.transformer.showo.lm_head.weight)
    torch.nn.init.zeros_(task.reader.weight)
    torch.nn.init.zeros_(task.reader.bias)
    loss = task.loss(torch.Generator().manual_seed(0))
    reading = sum(map(math.log, (4, 4, 7, 5)))
    assert float(loss.detach()) == pytest.approx(math.log(512) + 0.1 * reading, rel=1e-4)


def test_answers_are_read_at_their_words() -> None:
    """The columns that the reading loss looks at hold the words that name the items."""
    task = small_task()
    text = task.text(["", captions(3)[0], captions(30)[0]])
    seen: list[torch.Tensor] = []
    task.reader.register_forward_hook(lambda _module, inputs, _found: seen.append(inputs[0]))
    sequence, _ = task.transformer.sequence(text, torch.zeros(3, 64, dtype=torch.long))
    asked = [(row, answer) for row, lesson in ((1, 3), (2, 30)) for answer in lesson_answers(lesson)[0]]
    width = task.transformer.architecture.width
    task._reading(sequence[..., None].float().expand(-1, -1, width), text, asked)
    names = {number: word for word, number in task.text.tokenizer.get_vocab().items()}
    read = [names[int(number)] for number in seen[0][:, 0]]
    expected = [captions(lesson)[0].split()[word] for lesson in (3, 30) for word, _ in lesson_answers(lesson)[0]]
    assert read == expected


@pytest.mark.usefixtures("one_thread")
def test_it_learns(tmp_path: Path) -> None:
    task = small_task()
    first = float(task.loss(torch.Generator().manual_seed(5)))
    train(task, Settings(Schedule(3e-3, 25, warmup=2), average=0.0), ConfinedPath(tmp_path), NULL_REPORTER)
    assert float(task.loss(torch.Generator().manual_seed(5))) < first - 0.5


@pytest.mark.usefixtures("one_thread")
def test_the_image_tokenizer_learns_through_the_signs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ImageTokenizer(build.tokenizer_architecture())
    task = ImageTokenizerTask(network, batch_size=4)
    task.loss(torch.Generator().manual_seed(1)).backward()
    assert network.encoder.conv_in.weight.grad.abs().max() > 0, "the gradient passes the signs"
    task.batch_size = 8
    before = float(task.loss(torch.Generator().manual_seed(2)))
    train(task, Settings(Schedule(2e-3, 12, warmup=2), average=0.0), ConfinedPath(tmp_path), NULL_REPORTER)
    assert float(task.loss(torch.Generator().manual_seed(2))) < before - 0.1


def test_mistakes_are_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = CliRunner().invoke(main, [str(tmp_path / "file" / "in")])
    assert ran.exit_code == 3, ran.output
    assert ran.output.startswith("error: ")


def test_the_bundled_model_generates_what_is_asked() -> None:
    model = open_any_model(locate("sanac:tokens"))
    assert isinstance(model, TokenModel)
    assert model.architecture == build.architecture()
    stepwise = StepwiseTokens(open_networks(model, "cpu"), TokenSampling())
    pictures = stepwise.start(["a red circle"] * 4, [Noise(seed) for seed in range(4)]).finish()
    red = (pictures[..., 0] > 180) & (pictures[..., 1] < 90) & (pictures[..., 2] < 90)
    assert pictures.shape == (4, 64, 64, 3)
    assert (red.mean(axis=(1, 2)) > 0.02).sum() >= 3
