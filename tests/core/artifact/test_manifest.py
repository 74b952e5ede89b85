"""sanac.json: what it says, and that a forged one is not believed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sanac.core import json_files
from sanac.core.artifact.manifest import MANIFEST, Ancestor, Manifest, check_sealed, read_manifest
from sanac.core.artifact.plan import keep_blocks
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import FileRecord

A, B = "a" * 64, "b" * 64
EXAMPLE = Manifest(
    stage="prune",
    key=A,
    settings={"select": "manual"},
    lineage=(
        Ancestor("source", B, "some-org/model"),
        Ancestor("prune", B, plan=keep_blocks(6, [0, 2, 4, 5])),
        Ancestor("prune", A, plan=keep_blocks(4, [1, 3])),
    ),
    builder={"sanac": "0.1.0"},
    files={"transformer/config.json": FileRecord(3, B)},
    tensors={"transformer": {"proj_out.bias": B}},
    left_out=("vae",),
    added={"transformer/config.json": B},
)


def write(folder: Path, value: Any) -> None:
    (folder / MANIFEST).write_bytes(json_files.pretty(value))


def test_it_survives_the_disk(tmp_path: Path) -> None:
    write(tmp_path, EXAMPLE.to_json())
    assert read_manifest(tmp_path) == EXAMPLE


def test_blocks_are_traced_through_every_stage() -> None:
    assert EXAMPLE.origins == (2, 5)


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / MANIFEST).symlink_to("/etc/hostname")
    assert read_manifest(tmp_path) is None


BREAKS: dict[str, Any] = {
    "another schema": ("schema", 99),
    "no key": ("key", None),
    "a short key": ("key", "abc"),
    "files of nothing": ("files", [{}]),
    "a path that leaves": ("files", [{"path": "../x", "size": 1, "blake3": A}]),
    "an absolute path": ("files", [{"path": "/etc/passwd", "size": 1, "blake3": A}]),
    "a negative size": ("files", [{"path": "x", "size": -1, "blake3": A}]),
    "a digest that is none": ("files", [{"path": "x", "size": 1, "blake3": "zz"}]),
    "lineage of numbers": ("lineage", [1]),
    "a rule of another version": (
        "lineage",
        [
            {
                "stage": "grow",
                "key": A,
                "plan": {
                    "schema": 1,
                    "source_blocks": 1,
                    "blocks": [{"keep": 0}, {"new": 1, "rule": "orthogonal", "seed": 0}],
                    "config": {},
                },
            }
        ],
    ),
    "a broken plan": ("lineage", [{"stage": "prune", "key": A, "plan": {}}]),
    "tensors in a list": ("tensors", []),
    "left out by number": ("left_out", [1]),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_forged_manifest_is_bad_input(name: str, tmp_path: Path) -> None:
    key, value = BREAKS[name]
    forged = copy.deepcopy(EXAMPLE.to_json())
    forged[key] = value
    (tmp_path / MANIFEST).write_text(json.dumps(forged))
    with pytest.raises(InvalidInput) as caught:
        read_manifest(tmp_path)
    assert caught.value.hint or caught.value.why


def test_missing_and_changed_files_are_named(tmp_path: Path) -> None:
    assert check_sealed(tmp_path, EXAMPLE) == ["transformer/config.json is missing"]
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("four")
    assert check_sealed(tmp_path, EXAMPLE) == ["transformer/config.json has 4 bytes, sealed with 3"]
    (tmp_path / "transformer" / "config.json").write_text("two")
    assert check_sealed(tmp_path, EXAMPLE) == []
