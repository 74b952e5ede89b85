"""Thousands of damaged models: whatever a header, an index or a config says, the answer is exit 2 or 3.

100 cases each in `make test`, 10,000 in all in `make test-slow`.
"""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.artifact.summary import summarise
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import SanacError
from sanac.core.family.architecture import Architecture
from sanac.core.write.convert import decide_convert
from sanac.core.write.job import WriteOptions

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SMALL = Architecture(2, 32, 80, 32, 4, 4, 8, 1, qk_norm=True, guidance=False, attention_bias=False)
ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "../../etc/passwd", "\ud800", "\0", "a" * 5000,
    [], [[]], {}, {"a": 1}, [-1], [2**62, 2**62], "F32", "BF16", [0, 4], [4, 0], "transformer_blocks.0.x",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.synthetic import write_transformer

    folder = tmp_path_factory.mktemp("fuzz") / "model"
    base = SMALL.shape_config() | {"num_attention_heads": 1, "sample_size": 16}

    class Described(Architecture):
        def config(self) -> dict[str, Any]:
            return base

    fields = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    write_transformer(folder, Described(**fields))
    return folder


def damaged_value(rng: random.Random, value: Any) -> Any:
    """`value` with one thing changed, somewhere inside."""
    value = copy.deepcopy(value)
    holder, key = [value], 0
    while isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.85:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    root = [value] if holder[key] is value else None
    action = rng.randrange(4)
    if root is not None:
        return rng.choice(ODD)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[rng.choice(["x", "../y", "\ud800", str(key) + "0"])] = holder.pop(key)
    else:
        holder[key] = rng.choice([*ODD, rng.randrange(-9, 10**6)])
    return value


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled or inserted."""
    where = rng.randrange(len(data) + 1)
    return rng.choice(
        [
            data[:where],
            data[:where] + rng.randbytes(rng.randrange(1, 9)) + data[where:],
            data[:where] + rng.randbytes(4) + data[where + 4 :],
            data[:where] + data[max(0, where - 20) :],
        ]
    )


def damage_json(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(damaged_bytes(rng, data))
    else:
        path.write_text(json.dumps(damaged_value(rng, json.loads(data))))


def damage_header(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.3:
        path.write_bytes(damaged_bytes(rng, data[: 8 + length]) + body)
        return
    raw = json.dumps(damaged_value(rng, json.loads(header))).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)


DAMAGE: dict[str, Callable[[random.Random, Path], None]] = {
    "header": damage_header,
    "index": lambda rng, folder: damage_json(rng, folder / INDEX),
    "config": lambda rng, folder: damage_json(rng, folder / "config.json"),
}


def outcome(folder: Path, out: Path) -> int:
    """Open it, describe it, decide on a conversion; the exit code that a user would see."""
    try:
        found = open_model(locate(str(folder)))
        json.dumps(summarise(found).to_json())
        for layout in ("diffusers", "nvlabs"):
            job = decide_convert(found, WriteOptions(layout=layout), None)
            assert job.needs.disk < 10**9
    except SanacError as error:
        return error.exit_code if error.hint else -1
    return 0


def survive(kind: str, cases: int, model: Path, tmp_path: Path) -> dict[int, int]:
    """How often each exit code came up; anything but an exit code fails here."""
    seen = {0: 0, 2: 0, 3: 0}
    for case in range(cases):
        folder = tmp_path / "case"
        shutil.copytree(model, folder, copy_function=os.link)
        for path in folder.iterdir():  # the damage must not reach the original through the link
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
        rng = random.Random(f"{kind} {case}")
        DAMAGE[kind](rng, folder)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        seen[outcome(folder, tmp_path / "out")] += 1
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []
    return seen


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_hundred_damaged_models(kind: str, model: Path, tmp_path: Path) -> None:
    assert survive(kind, 100, model, tmp_path)[3] > 25


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_ten_thousand_damaged_models(kind: str, model: Path, tmp_path: Path) -> None:
    assert survive(kind, 3334, model, tmp_path)[3] > 800
