"""Wrong recipes are refused before anything runs, each at its line: real mistakes, and what settings forbid."""

from pathlib import Path

import pytest

from sanac.core.settings import Setting, settings_of
from sanac.verbs import VERBS, recipe_verbs
from tests.conftest import Sanac

NEEDED = {
    "prune": "target_blocks = 6", "grow": "target_blocks = 14", "quantize": 'scheme = "int8-wo"',
    "evaluate": 'suite = "shapes"',
}  # fmt: skip

MISTAKES = [  # (verb, setting, value as it is written)
    ("analyze", "guidance", "500"),
    ("analyze", "inputs", '"foo"'),
    ("analyze", "metric", '"importance"'),
    ("analyze", "timesteps", "5000"),
    ("analyze", "reduce", '"tokens"'),
    ("prune", "protect_first", "-3"),
    ("prune", "target_params", '"many"'),
    ("prune", "shard_size", '"large"'),
    ("grow", "preserve", "-1"),
    ("finetune", "ema", "1.5"),
    ("finetune", "loss", '"distil"'),
    ("finetune", "caption_dropout", "2"),
    ("finetune", "learning_rate", "0"),
    ("finetune", "fake_quant", '"int8"'),
    ("quantize", "component", '["unet"]'),
    ("quantize", "include", '["kvs"]'),
    ("quantize", "smoothing", '"on"'),
    ("quantize", "ranges", '"max"'),
    ("export", "depthwise", '"bf16"'),
    ("verify", "pictures", "100"),
    ("bench", "batch", '"1,x"'),
]


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def forbidden(setting: Setting) -> object:
    """A value that the declaration forbids."""
    option = setting.option
    if setting.choices:
        return "neither of these"
    if option.ge is not None:
        return int(option.ge) - 1
    if option.gt is not None:
        return int(option.gt)
    return 3 if setting.kind is bool or setting.kind is str else True


def generated() -> list[tuple[str, str, str]]:
    """One mistake for every setting of every verb of a recipe."""
    found = []
    for verb in recipe_verbs():
        for setting in settings_of(VERBS[verb].settings_class()).values():
            if setting.option.recipe:
                found.append((verb, setting.name, written(forbidden(setting))))
    return found


def recipe_of(verb: str, name: str, value: str) -> str:
    needed = NEEDED.get(verb, "")
    needed = "" if needed.startswith(f"{name} ") else needed
    making = "" if verb != "verify" else "[export]\n"
    return f'model = "sanac:tiny"\n{making}[{verb}]\n{needed}\n{name} = {value}\n'


def check(sanac: Sanac, folder: Path, verb: str, name: str, value: str) -> None:
    text = recipe_of(verb, name, value)
    (folder / "wrong.toml").write_text(text)
    line = text.splitlines().index(f"{name} = {value}") + 1
    ran = sanac("run", "wrong.toml", "--json")
    assert ran.code == 2, f"{verb}.{name} = {value}: {ran.out}"
    assert any(one.startswith(f"wrong.toml:{line}: {verb}.") for one in ran.json["error"]["problems"]), ran.json
    assert not (folder / "sanac-out").exists()


@pytest.mark.parametrize(("verb", "name", "value"), MISTAKES, ids=[f"{v}.{n}" for v, n, _ in MISTAKES])
def test_real_mistakes(sanac: Sanac, tmp_path: Path, verb: str, name: str, value: str) -> None:
    check(sanac, tmp_path, verb, name, value)


def test_there_are_many() -> None:
    assert len(MISTAKES) == 21
    assert len(generated()) >= 40


@pytest.mark.parametrize(("verb", "name", "value"), generated(), ids=[f"{v}.{n}" for v, n, _ in generated()])
def test_generated_mistakes(sanac: Sanac, tmp_path: Path, verb: str, name: str, value: str) -> None:
    check(sanac, tmp_path, verb, name, value)
