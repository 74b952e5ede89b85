"""Engines by name: cards, ranges, what a GPU can compute, and records that lie."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.engine_record import (
    CARDS,
    COMPUTES,
    NEVER,
    Record,
    check_file,
    check_runs_here,
    parse_capabilities,
    parse_span,
    read_record,
    refuse_impossible,
)
from sanac.core.errors import InvalidInput, MissingResource, UsageError

SHAPES = {"timestep": {"dtype": "float", "least": [1], "best": [2], "most": [8]}}
RECORD = Record(
    "model.bf16.rtx-1.7.1.116.sm89.engine", 80, "rtx", "1.7.1.116", (89,), ("bf16",), "0" * 64, {"w": "1" * 64},
    SHAPES, {"velocity": "bf16"}, weight_streaming=False, refit=False, executed=NEVER,
)  # fmt: skip
HEADER = b"vtrt" + bytes(12) + (80).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + bytes(52)


def write(folder: Path, record: Record = RECORD, header: bytes = HEADER) -> Path:
    path = folder / record.engine
    path.write_bytes(header)
    path.with_suffix(".json").write_text(json.dumps(record.to_json()))
    return path


def test_cards_and_capabilities() -> None:
    assert parse_capabilities(["rtx4090, sm120", "8.6", "RTX 4090"]) == (86, 89, 120)
    assert parse_capabilities([]) == ()
    assert parse_capabilities(["RTX 4070 Ti SUPER", "rtx3080ti", "rtx 5090 laptop"]) == (86, 89, 120)
    assert parse_capabilities(["a100-sxm4-80gb", "l40s", "A6000"]) == (80, 86, 89)
    assert set(CARDS) <= set(COMPUTES)
    with pytest.raises(UsageError, match="rtx9999") as caught:
        parse_capabilities(["rtx9999,89,70"])
    assert len(caught.value.problems) == 2


@given(st.integers(1, 9999), st.integers(0, 9999))
def test_spans(low: int, more: int) -> None:
    assert parse_span(f"{low}..{low + more}", "batch") == (low, low + more)
    assert parse_span(str(low), "batch") == (low, low)


@pytest.mark.parametrize("text", ["", "0..4", "4..1", "1-4", "a", "1..2..3", "-1", "1..9999999"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UsageError, match="is not a range"):
        parse_span(text, "size")


def test_impossible_pairs_are_refused_together() -> None:
    with pytest.raises(UsageError, match="sm75") as caught:
        refuse_impossible({"fp8", "bf16"}, "rtx", (75, 86, 89), "the graph")
    assert len(caught.value.problems) == 3
    assert "--sm 89" in caught.value.hint
    refuse_impossible({"fp8", "bf16"}, "rtx", (89, 120), "the graph")
    refuse_impossible({"fp16", "fp32"}, "tensorrt", (75,), "the graph")
    with pytest.raises(UsageError, match="fp32 matmuls, which tensorrt_rtx doesn't support on sm75"):
        refuse_impossible({"fp16", "fp32"}, "rtx", (75,), "the graph")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert check_file(path) == read_record(path.with_suffix(".json")) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"builder": "trt"},
        {"engine": "../model.engine"},
        {"engine": "model.onnx"},
        {"size": "80"},
        {"capabilities": [7]},
        {"inputs": {"timestep": {"dtype": "float", "least": [1], "best": [2], "most": [8, 8]}}},
        {"inputs": {"timestep": {"dtype": "float", "least": ["a"], "best": ["a"], "most": ["a"]}}},
        {"inputs": {"timestep": {"least": [1], "best": [2], "most": [8]}}},
        {"inputs": {"timestep": {"dtype": "float", "least": 1, "best": 2, "most": 8}}},
        {"outputs": ["velocity"]},
        {"outputs": {"velocity": 1}},
        {"weights": None},
        {"refit": "no"},
        {"inputs": [1]},
        {"schema": 99},
        {"version": 1},
        {"more": 1},
    ],
)
def test_records_that_lie(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput):
        read_record(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (HEADER[:-1], "is truncated"),
        (bytes(80), "not an engine"),
        (HEADER[:16] + bytes(8) + HEADER[24:], "doesn't match its record"),
        (HEADER[:24] + bytes([1, 6, 1, 116]) + HEADER[28:], "doesn't match its record"),
    ],
)
def test_files_that_are_not_what_was_built(tmp_path: Path, header: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_file(write(tmp_path, header=header))


def test_where_it_runs() -> None:
    check_runs_here(RECORD, "1.7.1.116", 89)
    for version, capability, said in (("1.7.1.116", None, "only run on a GPU"), ("1.7.1.116", 86, "another GPU")):
        with pytest.raises(MissingResource, match=said):
            check_runs_here(RECORD, version, capability)
    with pytest.raises(MissingResource, match="another version") as caught:
        check_runs_here(RECORD, "1.6.0.1", 89)
    assert "tensorrt-rtx==1.7.1.116" in caught.value.hint
    assert "1.6.0.1" in caught.value.why


def test_shapes_outside_are_named_with_the_range() -> None:
    RECORD.check_shapes({"timestep": (8,)})
    for shape in ((9,), (0,), (1, 1), ()):
        with pytest.raises(UsageError, match="not built for") as caught:
            RECORD.check_shapes({"timestep": shape})
        assert "[1] to [8]" in caught.value.why


def test_another_engine_s_record(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = replace(RECORD, engine="model.fp16.engine")
    path.with_suffix(".json").write_text(json.dumps(other.to_json()))
    with pytest.raises(InvalidInput, match="another engine's record"):
        check_file(path)
