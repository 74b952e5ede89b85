"""The recipes that sanac brings along, and the JSON Schema of recipes."""

import json
from pathlib import Path
from typing import Any

from sanac.core.errors import UsageError
from sanac.core.settings import json_schema, settings_of
from sanac.run.recipe import BASELINE, MOST_SAMPLES, NONE, SHEETS
from sanac.verbs import VERBS, recipe_verbs
from sanac.verify.gates import BOUNDS

SCHEMA_FILE = "sanac-recipe.schema.json"
_SHEET = "Pictures of the source and the result side by side; 'stages': of every model on the way, too."
_FORWARDS = "Block-forwards that a picture may cost with all its candidates, in the unit of `sanac schedule`."
_SECONDS = "Seconds that a picture may take with all its candidates, from the times of [bench]."
_SAMPLES = "Candidates per picture to choose from; 1, 2, 4, 8 by default where [evaluate] has a search."
_FOLDER = Path(__file__).parents[1] / "recipes"


def names() -> list[str]:
    """Names of all bundled recipes."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def bundled(name: str) -> Path:
    """The file of a bundled recipe."""
    if name not in names():
        raise UsageError(f"there is no recipe {name!r}", why=f"there are {', '.join(names())}", hint="sanac recipes ls")
    return _FOLDER / f"{name}.toml"


def recipe_file(word: str) -> Path:
    """A recipe's file: the one that is named, or the bundled recipe of this name."""
    path = Path(word)
    return path if path.suffix == ".toml" or path.exists() else bundled(word)


def first_comment(name: str) -> str:
    """What a bundled recipe says it is for."""
    lines = bundled(name).read_text(encoding="utf-8").splitlines()
    return next(line.lstrip("# ") for line in lines if line.startswith("# "))


def schema_text() -> str:
    """The JSON Schema of recipes, as the file that bundled recipes name."""
    return json.dumps(recipe_schema(), indent=1) + "\n"


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes: every verb's table, the matrix, the target, the gates."""
    number = {"type": "number"}
    tables = {name: _table(name) for name in recipe_verbs()}
    several = {name: {"anyOf": [one, {"type": "array", "items": one}]} for name, one in tables.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of sanac",
        "type": "object",
        "required": ["model"],
        "additionalProperties": False,
        "properties": {
            "model": {"type": "string", "description": "A folder, a file, a hub id or sanac:tiny."},
            "sheet": {"enum": list(SHEETS), "description": _SHEET},
            **several,
            "matrix": {"type": "object", "properties": {name: _matrix(name) for name in recipe_verbs()}},
            "target": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "max_bytes": {"type": "string"},
                    "max_latency_ratio": {"type": "number", "exclusiveMinimum": 0},
                    "min_score_ratio": {"type": "number", "exclusiveMinimum": 0},
                    "max_block_forwards": {"type": "number", "exclusiveMinimum": 0, "description": _FORWARDS},
                    "max_seconds": {"type": "number", "exclusiveMinimum": 0, "description": _SECONDS},
                    "samples": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1, "maximum": MOST_SAMPLES},
                        "minItems": 1,
                        "description": _SAMPLES,
                    },
                    "images": {"type": "integer", "minimum": 12},
                },
            },
            "gate": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["metric"],
                    "properties": {
                        "metric": {"type": "string"},
                        "bound": {"enum": list(BOUNDS)},
                        **dict.fromkeys(("min", "max", "min_recovery", "max_ratio", "least", "most"), number),
                    },
                },
            },
        },
    }


def _table(name: str) -> dict[str, Any]:
    table = json_schema(VERBS[name].settings_class())
    if name in {"evaluate", "bench"}:
        baseline = {"type": "boolean", "description": "Measure the source, too.", "default": True}
        table["properties"] = {**table["properties"], BASELINE: baseline}
    return table


def _matrix(name: str) -> dict[str, Any]:
    """Several values of each setting, or `none` to leave the verb out."""
    known = settings_of(VERBS[name].settings_class())
    open_names = [one for one, setting in known.items() if setting.option.recipe]
    values = {"type": "array", "minItems": 1, "description": f"Values to try; {NONE!r} leaves {name} out."}
    return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(open_names, values)}
