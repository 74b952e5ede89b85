"""quant.json is read as an attack, even where its seal is right."""

import json
from pathlib import Path
from typing import Any

import pytest

from sanac.core import json_files
from sanac.core.checkpoint.quant_json import PACKED, QuantConfig, WeightSpec, _digest, read_quantized
from sanac.core.errors import InvalidInput

WHOLE = QuantConfig(
    PACKED, "BF16", {"a.weight": WeightSpec("int4-wo", "int4", 64, (8, 100), "search")}, {"b": "no"}, {"f": "0"}
)


def written(folder: Path, changes: dict[str, Any]) -> Path:
    content = WHOLE.to_json() | changes
    del content["seal"]
    path = folder / "quant.json"
    path.write_text(json.dumps(content | {"seal": _digest(json_files.canonical(content))}))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"weights": {"a.weight": WHOLE.to_json()["weights"]["a.weight"] | changes}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read_quantized(written(tmp_path, {}))
    assert found == WHOLE
    assert (found.weights["a.weight"].groups, found.weights["a.weight"].stored_shape(PACKED)) == (2, (8, 50))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 3},
        {"layout": "other"},
        {"layout": ["packed"]},
        {"dtype": {}},
        {"dtype": "I8"},
        {"left": []},
        {"headers": None},
        {"weights": []},
        {"weights": {"a.weight": 3}},
        {"more": 1},
        entry(form="int3"),
        entry(form=["int4"]),
        entry(block=0),
        entry(block="64"),
        entry(block=True),
        entry(shape=[8]),
        entry(shape=[8, -1]),
        entry(shape=[8, 1.5]),
        entry(shape="ab"),
        entry(scheme=None),
        entry(more=1),
        entry(given=3),
        entry(given={}),
        entry(given={"kind": "token", "smooth": False, "scale": None}),
        entry(form="int8", given={"kind": "token", "smooth": False, "scale": 1.0}),
        entry(form="int8", given={"kind": "static", "smooth": False, "scale": True}),
        entry(form="int8", given={"kind": "static", "smooth": False, "scale": 10**400}),
        entry(form="int8", block=8, given={"kind": "token", "smooth": False, "scale": None}),
        entry(form="fp8", block=None, given={"kind": "static", "smooth": False, "scale": 1.0}),
        entry(form="int8", block=None, given={"kind": "token", "smooth": False, "scale": None}) | {"layout": "torchao"},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        read_quantized(written(tmp_path, changes))


def test_edits_are_seen(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    path.write_text(path.read_text().replace("int4-wo", "int5-wo"))
    with pytest.raises(InvalidInput, match="was edited"):
        read_quantized(path)
