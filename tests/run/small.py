"""The recipe that tests run."""

from pathlib import Path

SMALL = """\
model = "sanac:tiny"
sheet = false
[prune]
keep = "0-7,10-11"
[quantize]
scheme = "int8-wo"
[evaluate]
suite = "shapes"
images = 12
steps = 2
[[gate]]
metric = "size/transformer_bytes"
max_ratio = 0.6
"""

OPEN = SMALL.replace('keep = "0-7,10-11"\n', "")


def write(text: str, name: str = "r.toml") -> str:
    Path(name).write_text(text)
    return name
