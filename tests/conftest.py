"""Small real models, built once per session, and a way to run the command line in this process."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sanac.cli.app import run


def pytest_configure() -> None:
    """Jobs in a shell's background are born deaf to Ctrl-C, and so are their children: tests send it to theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def sanac(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sanac:
    """Run `sanac ARGS...` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SANAC_MODEL", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole untrained pipeline of six blocks, as diffusers saves it."""
    from sanac.tiny.build import build, save

    folder = tmp_path_factory.mktemp("models") / "pipeline"
    save(build(6), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sanac:tiny as `export --precision fp32` leaves it; to be copied by those who change something."""
    from sanac.core.execute import Writing, execute
    from sanac.core.locate import locate
    from sanac.core.model import open_model
    from sanac.core.talk import SILENCE
    from sanac.export.job import Wanted, decide_export

    out = tmp_path_factory.mktemp("graphs") / "tiny"
    job = decide_export(open_model(locate("sanac:tiny")), Wanted(precision="fp32"), Writing())
    assert execute(job, out, SILENCE)[0] == "ok"
    return out


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Two blocks of sanac:tiny in a scheme, with their graph in fp32; each made once."""
    home, made = tmp_path_factory.mktemp("quantized"), dict[str, Path]()
    two, ws = home / "two", ("--workspace", str(home / "ws"))

    def make(scheme: str) -> Path:
        if scheme not in made:
            if not two.exists():
                assert run(["prune", "sanac:tiny", "--keep", "3,7", "--out", str(two), *ws]) == 0
            few = () if scheme.endswith("-wo") else ("--include", "ends", "--num-prompts", "3", "--timesteps", "4")
            assert run(["quantize", str(two), "--scheme", scheme, *few, "--out", str(home / scheme), *ws]) == 0
            how = ("--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")
            assert run(["export", str(home / scheme), *how, *ws]) == 0
            made[scheme] = home / scheme
        return made[scheme]

    return make


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
