"""Small real models, built once per session, and a way to run the command line in this process."""

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sanac.cli.app import run
from sanac.core.threads import configure_threads

configure_threads()  # before a test imports torch


def pytest_configure() -> None:
    """Jobs in a shell's background are born deaf to Ctrl-C, and so are their children: tests send it to theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take a minute or more, longest first: begun last, one of them would leave the other worker idle.
LONGEST = (
    "export/test_engine_plan.py",
    "export/test_components.py",
    "export/test_transformer.py",
    "verify/test_bench.py",
    "export/test_qdq.py",
    "examples/test_quickstart.py",
    "quantize/test_bit_allocation.py",
    "quantize/test_gptq.py",
    "cli/test_finetune.py",
    "run/test_variants.py",
    "run/test_budget_target.py",
    "run/test_stopped.py",
    "train/test_loop.py",
    "cli/test_analyze.py",
    "tiny/test_model.py",
    "run/test_runner.py",
    "report/test_hub.py",
    "cli/test_export.py",
    "quantize/test_loading.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; make test's `--no-loadscope-reorder` keeps that order."""

    def place(item: pytest.Item) -> int:
        name = "/".join(item.path.parts[-2:])
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graphs that were traced for one test are there for all, and none from before: `sanac`'s cache is a new folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser()))
        patch.setenv("XDG_CACHE_HOME", str(common(tmp_path_factory) / "cache"))
        yield


def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of these tests share."""
    here = tmp_path_factory.getbasetemp()
    home = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "shared"
    home.mkdir(exist_ok=True)
    return home


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, f"stdout is not one line: {self.out!r}"
        return json.loads(self.out)


Sanac = Callable[..., Ran]
Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture
def sanac(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sanac:
    """Run `sanac ARGS...` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SANAC_MODEL", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> Ran:
        os.environ.pop("PYTEST_CURRENT_TEST", None)  # it changes with every test, and with it what recipes' servers saw
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def pipeline(shared: Shared) -> Path:
    """A whole untrained pipeline of six blocks, as diffusers saves it."""
    from sanac.tiny.build import build, save

    return shared("pipeline", lambda folder: save(build(6), folder))


@pytest.fixture(scope="session")
def token_model(shared: Shared) -> Path:
    """An untrained token generator of two layers and 4 x 4 tokens, in Show-o's names."""
    return shared("token-model", build_token_model)


def build_token_model(folder: Path, bits: int = 5, words: int = 0) -> None:
    """Save a small token generator with other sizes where they are given."""
    import torch

    from sanac.core.family.magvit import Coder, MagvitArchitecture
    from sanac.core.family.showo import ShowoArchitecture
    from sanac.shapes.words import VOCABULARY
    from sanac.tiny.tokens.build import SPECIALS, save
    from sanac.tokens.image_tokenizer import ImageTokenizer
    from sanac.tokens.transformer import MaskedTokenTransformer

    torch.manual_seed(0)
    coder = Coder((8, 8, 16), (1, 2, 1))
    words = words or len(SPECIALS) + len(VOCABULARY)
    shape = ShowoArchitecture(2, 32, 2, 64, words, 2**bits, image_tokens=16, text_length=20)
    network = MaskedTokenTransformer(shape)
    for name, weight in network.named_parameters():
        if name.endswith(("proj.weight", "dense.weight", "fc1.weight", "fc2.weight", "lm_head.weight")):
            torch.nn.init.normal_(weight, std=0.3)  # so that prompts and codes matter
    save(folder, network, ImageTokenizer(MagvitArchitecture(bits, coder, coder, stem=8, groups=4)))


@pytest.fixture(scope="session")
def large_pictures(pipeline: Path, shared: Shared) -> Path:
    """The same pipeline as a model of 2K or 4K images: a position embedding is added to its latents."""
    import shutil

    def making(folder: Path) -> None:
        shutil.copytree(pipeline, folder)
        config = folder / "transformer" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"interpolation_scale": 1.0}))

    return shared("large-pictures", making)


@pytest.fixture(scope="session")
def sprint(shared: Shared) -> Path:
    """A whole untrained SANA-Sprint of three blocks, as diffusers saves it."""

    def making(folder: Path) -> None:
        from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

        from sanac.tiny.build import build, save

        parts = build(3).components
        config = {name: value for name, value in parts["transformer"].config.items() if not name.startswith("_")}
        config |= {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
        parts |= {"transformer": SanaTransformer2DModel(**config).eval(), "scheduler": SCMScheduler()}
        save(SanaSprintPipeline(**parts), folder)

    return shared("sprint", making)


@pytest.fixture(scope="session")
def stranger(sprint: Path, shared: Shared) -> Path:
    """The same SANA-Sprint with a tokenizer that hasn't the shapes world's vocabulary."""
    import shutil

    def making(folder: Path) -> None:
        shutil.copytree(sprint, folder)
        tokenizer = folder / "tokenizer" / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text().replace('"cross"', '"lighthouse"'))

    return shared("stranger", making)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder that all processes of these tests share, if none of them did before."""
    home = common(tmp_path_factory)

    def make(name: str, making: Callable[[Path], None]) -> Path:
        with (home / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = home / f"{name}.done"
            if not done.exists():
                making(home / name)
                done.touch()
        return home / name

    return make


@pytest.fixture(scope="session")
def tiny_graphs(shared: Shared) -> Path:
    """sanac:tiny as `export --precision fp32` leaves it; to be copied by those who change something."""
    words = ("export", "sanac:tiny", "--precision", "fp32", "--no-verify", "--out")
    return shared("tiny-graphs", lambda out: sanac_must(*words, out))


@pytest.fixture(scope="session")
def quantized(shared: Shared) -> Callable[[str], Path]:
    """Two blocks of sanac:tiny in a scheme, with their graph in fp32."""

    def make(scheme: str) -> Path:
        two = shared("two", lambda out: sanac_must("prune", "sanac:tiny", "--keep", "3,7", "--out", out))
        few = () if scheme.endswith("-wo") else ("--include", "ends", "--num-prompts", "3", "--timesteps", "4")
        how = ("--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")

        def making(out: Path) -> None:
            sanac_must("quantize", two, "--scheme", scheme, *few, "--out", out)
            sanac_must("export", out, *how)

        return shared(scheme, making)

    return make


def sanac_must(*words: object) -> None:
    """A command that has to succeed, in this process."""
    home = next(word for word in reversed(words) if isinstance(word, Path)).parent
    assert run([*map(str, words), "--workspace", str(home / "workspace")]) == 0


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same transformer alone, in many shards."""
    import torch

    from sanac.tiny.build import transformer

    folder = tmp_path_factory.mktemp("models") / "sharded"
    torch.manual_seed(0)
    transformer(6).save_pretrained(folder, max_shard_size="500KB")
    return folder


@pytest.fixture
def broken(pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the transformer folder that a test may damage."""
    import shutil

    return Path(shutil.copytree(pipeline / "transformer", tmp_path / "broken"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training on one thread: bits that don't hang on how many cores are free, and no slower for small models."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
