"""Model folders with code, or with a way to some: none of it runs, in any verb that opens pipelines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sanac as package
from sanac.core import requirements
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, MissingResource
from sanac.nn import loader_gate
from sanac.nn.loader_gate import check_loadable
from tests.conftest import Sanac

CODE = "import os, pathlib\npathlib.Path(os.environ['CANARY']).touch()\n"
CLASSES = (
    "import torch\nfrom diffusers import ModelMixin, ConfigMixin, SanaPipeline, DPMSolverMultistepScheduler\n"
    "class Own(ModelMixin, ConfigMixin):\n    config_name = 'config.json'\n"
    "class OwnPipeline(SanaPipeline):\n    pass\n"
    "class OwnScheduler(DPMSolverMultistepScheduler):\n    pass\n"
)
Change = Callable[[Path], None]
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
CONFIGS = {part: f"{part}/config.json" for part in PARTS[:3]}
CONFIGS |= {"tokenizer": "tokenizer/tokenizer_config.json", "scheduler": "scheduler/scheduler_config.json"}


def edited(file: str, **changes: Any) -> Change:
    """A JSON file with other values."""

    def change(folder: Path) -> None:
        path = folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | changes))

    return change


def code_in(*places: str) -> Change:
    def change(folder: Path) -> None:
        for place in places:
            (folder / place).write_text(CODE + CLASSES)

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def cases() -> Iterator[tuple[str, Change]]:
    """Every component times every way to code that its loader knows."""
    for part in PARTS:
        own = "OwnScheduler" if part == "scheduler" else "Own"
        named = edited("model_index.json", **{part: ["own", own]})
        yield f"{part}: own module", both(named, code_in(f"{part}/own.py", "own.py"))
        yield f"{part}: installed module", edited("model_index.json", **{part: ["antigravity", own]})
        yield f"{part}: other class", edited("model_index.json", **{part: ["diffusers", "StableDiffusionPipeline"]})
        yield f"{part}: function", edited("model_index.json", **{part: ["transformers", "pipeline"]})
        yield f"{part}: three words", edited("model_index.json", **{part: ["diffusers", "x", "y"]})
        yield f"{part}: Python beside", code_in(f"{part}/modeling_own.py")
        file = CONFIGS[part]
        yield (
            f"{part}: auto_map",
            both(
                edited(
                    file, auto_map={"AutoModel": "own.Own", "AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]}
                ),
                code_in(f"{part}/own.py"),
            ),
        )
        yield f"{part}: _class_name", both(edited(file, _class_name=["own", own]), code_in(f"{part}/own.py"))
        yield f"{part}: custom_pipeline", both(edited(file, custom_pipeline="own"), code_in("own.py"))
        yield f"{part}: unknown key", edited(file, load_from="https://example.org/x")
    for part in PARTS[:3]:
        for method in ("bitsandbytes", "gguf", "modelopt", "auto-round", "own"):
            yield (
                f"{part}: quantized by {method}",
                edited(
                    CONFIGS[part],
                    quantization_config={"quant_method": method, "load_in_8bit": True, "modules": ["own.Own"]},
                ),
            )
        yield f"{part}: attention from elsewhere", edited(CONFIGS[part], _attn_implementation="somebody/kernel")
    yield "pipeline: own class", both(edited("model_index.json", _class_name=["own", "OwnPipeline"]), code_in("own.py"))
    yield "pipeline: named own", both(edited("model_index.json", _class_name="OwnPipeline"), code_in("pipeline.py"))
    yield "pipeline: other", edited("model_index.json", _class_name="StableDiffusionPipeline")
    yield (
        "pipeline: one more part",
        both(
            edited("model_index.json", helper=["own", "Own"]),
            lambda f: (f / "helper").mkdir(),
            code_in("helper/own.py"),
        ),
    )
    yield "pipeline: a value", edited("model_index.json", custom_pipeline="own")
    yield "text_encoder: adapter", edited("text_encoder/adapter_config.json", base_model_name_or_path="somebody/x")
    yield "text_encoder: other type", edited("text_encoder/config.json", model_type="own")
    yield "text_encoder: other architecture", edited("text_encoder/config.json", architectures=["Own"])
    yield "text_encoder: architectures", edited("text_encoder/config.json", architectures={"a": [1]})
    yield "tokenizer: other class", edited("tokenizer/tokenizer_config.json", tokenizer_class="OwnTokenizer")
    yield "tokenizer: a file elsewhere", edited("tokenizer/tokenizer_config.json", tokenizer_file="/etc/passwd")
    yield "tokenizer: a vocabulary elsewhere", edited("tokenizer/tokenizer_config.json", vocab_file="/etc/passwd")
    yield "tokenizer: a map elsewhere", edited("tokenizer/tokenizer_config.json", special_tokens_map_file="/etc/passwd")
    yield (
        "tokenizer: sentencepiece",
        edited("tokenizer/tokenizer_config.json", sp_model_kwargs={"model_file": "/etc/passwd"}),
    )
    yield "tokenizer: trusting", edited("tokenizer/tokenizer_config.json", trust_remote_code=True)
    yield "text_encoder: trusting", edited("text_encoder/config.json", trust_remote_code=True)
    yield "tokenizer: a config", edited("tokenizer/config.json", model_type="own", tokenizer_class="OwnTokenizer")
    yield "scheduler: other", edited("model_index.json", scheduler=["diffusers", "DDPMScheduler"])


CASES = dict(cases())


@pytest.fixture
def hostile(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A pipeline's folder with a change; code in it would make CANARY."""
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def make(name: str) -> Path:
        folder = Path(shutil.copytree(pipeline, tmp_path / "model"))
        CASES[name](folder)
        return folder

    return make


def test_there_are_enough_and_the_plain_one_passes(pipeline: Path) -> None:
    assert len(CASES) > 70
    check_loadable(open_model(locate(str(pipeline))))
    check_loadable(open_model(locate("sanac:tiny")))


def test_a_pipeline_that_was_saved_again_passes(pipeline: Path, tmp_path: Path) -> None:
    """transformers saves arguments of the call that loaded it."""
    package.load_pipeline(pipeline).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / CONFIGS["tokenizer"]).read_text())
    assert "local_files_only" in config
    package.load_pipeline(tmp_path / "again")


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, hostile: Callable[[str], Path], tmp_path: Path) -> None:
    """By the gate, or before it by what opens models; never by a loader."""
    folder = hostile(name)
    with pytest.raises(InvalidInput) as caught:
        check_loadable(open_model(locate(str(folder))))
    assert caught.value.why or caught.value.problems
    assert not (tmp_path / "canary").exists()


VERBS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "MODEL", "a red circle", "--out", "x", "--steps", "1"),
    "analyze": ("analyze", "MODEL", "--num-prompts", "1", "--timesteps", "2"),
    "evaluate": ("evaluate", "MODEL", "--suite", "shapes", "--images", "12", "--steps", "1"),
    "export": ("export", "MODEL", "--out", "o"),
    "finetune": ("finetune", "MODEL", "--steps", "1", "--data-free", "--samples", "2", "--teacher", "sanac:tiny"),
    "verify": ("verify", "MODEL", "--against", "sanac:tiny"),
    "bench": ("bench", "MODEL", "--rounds", "1", "--steps", "1"),
}
TRIED = ("text_encoder: own module", "pipeline: own class", "tokenizer: auto_map", "scheduler: own module")


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("verb", VERBS)
def test_by_every_verb(verb: str, name: str, hostile: Callable[[str], Path], sanac: Sanac, tmp_path: Path) -> None:
    folder = hostile(name)
    ran = sanac(*(str(folder) if word == "MODEL" else word for word in VERBS[verb]))
    assert ran.code == 3, ran.err
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", TRIED)
def test_from_python(name: str, hostile: Callable[[str], Path], tmp_path: Path) -> None:
    folder = hostile(name)
    with pytest.raises(InvalidInput):
        package.load_pipeline(folder)
    assert not (tmp_path / "canary").exists()


def test_a_loader_that_is_too_old(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 at the start, with the command that helps."""
    versions = {"diffusers": "0.36.0", "transformers": "4.57.3"}
    monkeypatch.setattr(requirements.metadata, "version", versions.__getitem__)
    requirements.check_loaders.cache_clear()
    ran = sanac("inspect", "sanac:tiny")
    requirements.check_loaders.cache_clear()
    assert ran.code == 4
    assert 'pip install --upgrade "diffusers>=' in ran.err
    assert requirements.bounds().keys() == {"diffusers", "transformers"}


@pytest.mark.parametrize(
    ("one", "other"), [("0.38.0", "0.38"), ("5.0.0.dev3", "5"), ("0.100", "0.38"), ("5.1rc1", "5")]
)
def test_versions_that_are_new_enough(one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements.metadata, "version", lambda _: one)
    monkeypatch.setattr(requirements, "bounds", lambda: {"diffusers": other})
    requirements.check_loaders.__wrapped__()
    monkeypatch.setattr(requirements.metadata, "version", lambda _: "0.1")
    with pytest.raises(MissingResource):
        requirements.check_loaders.__wrapped__()


def test_loaders_are_called_in_one_place() -> None:
    """The gate is in front of all of them because nobody else calls one with a folder."""
    import ast

    home = Path(package.__file__).parent
    callers = {
        path.relative_to(home).as_posix()
        for path in home.rglob("*.py")
        if "tiny" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    }
    copies = {"export/components.py"}  # of what the gate has seen
    judges = {"judge/model_folder.py"}  # behind a gate of its own, `open_judge`
    assert callers == {"nn/stock_loading.py", *copies, *judges}


def lowest(name: str) -> str:
    return requirements.bounds()[name]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_with_other_versions_of_the_loaders(
    which: str, tmp_path_factory: pytest.TempPathFactory, pipeline: Path
) -> None:
    """All cases through the stock loaders' doors, under the oldest and the newest versions that pip may choose."""
    home = tmp_path_factory.mktemp(which)
    pins = [f"{name}=={lowest(name)}.*" if which == "lowest" else name for name in requirements.LOADERS]
    pins.append(f"numpy=={requirements.metadata.version('numpy')}")  # what torch was built with
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(home), *pins]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr[-200:]}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(home), str(Path(package.__file__).parent.parent)])}
    code = "from tests.hostile.test_loading import try_all; import sys; try_all(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(pipeline), str(home / "work")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    print(done.stdout)


def try_all(pipeline: str, work: str) -> None:
    """Every case with the gate, and then with the gate open: what the loaders do by themselves is said."""
    import diffusers
    import transformers

    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}")
    canary = Path(work) / "canary"
    os.environ |= {"CANARY": str(canary), "HF_MODULES_CACHE": f"{work}/modules"}
    package.load_pipeline(pipeline)
    for name, change in CASES.items():
        folder = Path(shutil.copytree(pipeline, Path(work) / "model"))
        change(folder)
        try:
            package.load_pipeline(folder)
        except InvalidInput:
            pass
        else:
            raise AssertionError(f"{name}: was loaded")
        assert not canary.exists(), f"{name}: its code ran"
        shutil.rmtree(folder)
    loader_gate.check_loadable.__globals__["_refuse"] = lambda *_: None
    for name, change in CASES.items():
        folder = Path(shutil.copytree(pipeline, Path(work) / "model"))
        change(folder)
        try:
            package.load_pipeline(folder)
        except Exception as error:  # noqa: BLE001 (anything: the question is whether code runs)
            said = type(error).__name__
        else:
            said = "loaded"
        print(f"  without the gate: {name}: {said}{', AND ITS CODE RAN' if canary.exists() else ''}")
        canary.unlink(missing_ok=True)
        shutil.rmtree(folder)
