"""Checks ONNX files as untrusted input: the graph parses, and its external data is in files in its own folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sanac.core.errors import InvalidInput

if TYPE_CHECKING:
    import onnx

GRAPH = "model.onnx"
_DEPTH = re.compile(r"model\.depth-([1-9]\d{0,3})\.onnx")


def depth_graph(depth: int) -> str:
    """File name of the graph that runs the first `depth` blocks of a schedule's order."""
    return f"model.depth-{depth}.onnx"


def depth_of_graph(name: str) -> int | None:
    """The depth of a graph with such a file name; None for other names."""
    match = _DEPTH.fullmatch(name)
    return int(match[1]) if match else None


def load_graph(path: Path) -> "onnx.ModelProto":
    """The ONNX graph in the file `path`, without its external data."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise InvalidInput(f"{path} is not a valid ONNX graph", why=first_line(error)) from error


def check_references(path: Path) -> tuple[Path, ...]:
    """The external data files of a graph; InvalidInput unless they are in its folder and long enough."""
    import onnx

    outside = [
        tensor for tensor in load_graph(path).graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    found = (_referred(path, one.name, {entry.key: entry.value for entry in one.external_data}) for one in outside)
    return tuple(dict.fromkeys(found))


def _referred(path: Path, name: str, about: Mapping[str, str]) -> Path:
    place = about.get("location", "")
    file = path.parent / place
    if not place or Path(place).name != place or file.is_symlink():
        raise InvalidInput(
            f"{path} refers to {place!r} for {name}", why="external data must be in files in the graph's folder"
        )
    try:
        end, size = int(about["offset"]) + int(about["length"]), file.stat().st_size
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{path} has no valid offset and length for {name} in {place}") from error
    except OSError as error:
        raise InvalidInput(f"{file} is missing", why=f"{path.name} has its weights there") from error
    if int(about["offset"]) < 0 or end > size:
        raise InvalidInput(f"{file} is truncated", why=f"{name} ends at {end:,}, the file at {size:,}")
    return file


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 300 characters; its type's name if it has none."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
