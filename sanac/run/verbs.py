"""What a recipe may say of each verb: its settings, their kinds, and the words of the command line they become."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INT, FLOAT, TEXT, FLAG, PATH = "a whole number", "a number", "a text", "true or false", "a path"
WORDS, LIST = "a text or several", "texts"  # WORDS become one word with commas, LIST an option for each
MODEL, LORAS = "a model", "files, each with :SCALE or without"
SIZE = "a size such as '2GB'"

_CALIBRATING = {
    "prompts": PATH, "embeddings": PATH, "num_prompts": INT, "timesteps": INT, "guidance": FLOAT,
    "memory_limit": SIZE, "yes": FLAG,
}  # fmt: skip
_MEASURING = _CALIBRATING | {"inputs": TEXT, "data": PATH, "reduce": TEXT}
_WRITING = {"transformer_only": FLAG, "link": FLAG, "shard_size": SIZE, "full_hash": FLAG, "lora": LORAS}
_RUNNING = {"seed": INT, "device": TEXT}

SETTINGS: dict[str, dict[str, str]] = {
    "analyze": _MEASURING | _RUNNING | {"metric": TEXT},
    "prune": _MEASURING | _WRITING | _RUNNING | {
        "target_blocks": INT, "target_params": TEXT, "keep": TEXT, "scores": PATH, "select": TEXT, "compensate": FLAG,
        "protect_first": INT, "protect_last": INT,
    },
    "grow": _WRITING | _RUNNING | {"target_blocks": INT, "init": TEXT, "preserve": INT, "qk_norm": FLAG},
    "finetune": _RUNNING | {
        "steps": INT, "data": PATH, "data_free": FLAG, "samples": INT, "prompts": PATH, "teacher": MODEL, "loss": WORDS,
        "optimizer": TEXT, "learning_rate": FLOAT, "warmup": INT, "batch": INT, "accumulate": INT, "clip": FLOAT,
        "ema": FLOAT, "caption_dropout": FLOAT, "precision": TEXT, "checkpointing": FLAG, "compile": FLAG, "lora": INT,
        "fake_quant": TEXT, "teacher_cache": SIZE, "memory_limit": SIZE, "save_every": INT, "sample_every": INT,
        "sample_prompt": LIST, "log_with": WORDS,
    },
    "quantize": _CALIBRATING | _WRITING | _RUNNING | {
        "scheme": TEXT, "component": LIST, "block": INT, "rounding": TEXT, "include": LIST, "leave": LIST,
        "smoothing": TEXT, "ranges": TEXT, "max_bytes": SIZE, "min_sqnr": FLOAT, "among": WORDS,
    },
    "export": _WRITING | _RUNNING | {
        "onnx": FLAG, "component": LIST, "precision": TEXT, "depthwise": TEXT, "no_verify": FLAG, "trt": FLAG,
        "builder": TEXT, "sm": LIST, "batch": TEXT, "size": TEXT, "weight_streaming": FLAG, "refit": FLAG,
        "timing_cache": PATH,
    },
    "verify": {
        "against": MODEL, "backend": TEXT, "limit": FLOAT, "pictures": INT, "steps": INT, "device": TEXT, "seed": INT,
        "rank_correlation": FLAG, "noises": INT, "rank_prompts": INT, "candidate_steps": INT, "least_kendall": FLOAT,
        "verifier": TEXT,
    },
    "evaluate": _RUNNING | {
        "suite": TEXT, "images": INT, "steps": INT, "guidance": FLOAT, "batch": INT, "backend": TEXT,
        "prompts_split": TEXT,
    },
    "bench": {
        "backend": WORDS, "batch": WORDS, "rounds": INT, "steps": INT, "guidance": FLOAT, "size": TEXT, "tile": INT,
        "threads": INT, "device": TEXT,
    },
}  # fmt: skip
VERBS = tuple(SETTINGS)  # in the order of the work
MAKING = ("prune", "grow", "finetune", "quantize", "export")  # verbs that write an artifact; the others look at one
REQUIRED: dict[str, tuple[str, ...]] = {
    "prune": ("target_blocks", "target_params", "keep"),
    "grow": ("target_blocks",),
    "quantize": ("scheme", "max_bytes", "min_sqnr"),
    "evaluate": ("suite",),
}  # exactly one of these
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("analyze", "metric"): ("bi", "norm", "velocity"),
    ("prune", "select"): ("bi", "norm", "velocity", "search"),
    ("grow", "init"): ("partial", "cyclic", "replicate"),
    ("finetune", "optimizer"): ("came8bit", "came", "adamw", "adamw8bit"),
    ("finetune", "precision"): ("fp32", "bf16"),
    ("quantize", "scheme"): ("int8-wo", "int4-wo", "fp8-wo", "int8", "int8-dynamic", "fp8", "fp8-dynamic"),
    ("quantize", "rounding"): ("nearest", "search", "gptq"),
    ("export", "precision"): ("bf16", "fp16", "fp32"),
    ("export", "builder"): ("auto", "tensorrt", "rtx"),
    ("verify", "backend"): ("torch", "onnx", "trt"),
    ("evaluate", "suite"): ("shapes",),
    ("evaluate", "prompts_split"): ("test", "tune"),
}
_COUNTS = {
    "target_blocks", "steps", "samples", "batch", "accumulate", "images", "rounds", "threads", "tile", "block",
    "num_prompts", "timesteps", "save_every", "sample_every", "noises", "rank_prompts", "candidate_steps",
}  # fmt: skip


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and bool(value)


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


_FITS: dict[str, Callable[[Any], bool]] = {
    INT: lambda value: _is_number(value, int),
    FLOAT: lambda value: _is_number(value, (int, float)) and abs(value) < 1e300,
    TEXT: lambda value: isinstance(value, str) and bool(value),
    MODEL: lambda value: isinstance(value, str) and bool(value) and value.isprintable(),
    PATH: lambda value: isinstance(value, str) and bool(value) and value.isprintable(),
    SIZE: lambda value: isinstance(value, str) and bool(value),
    FLAG: lambda value: isinstance(value, bool),
    WORDS: lambda value: _is_texts(value) or (isinstance(value, str) and bool(value)) or _is_number(value, int),
    LIST: _is_texts,
    LORAS: lambda value: _is_texts(value) and all(one.isprintable() for one in value),
}


def complaint(verb: str, name: str, value: Any) -> str:
    """Why a setting can't have this value; nothing where it can."""
    kind = SETTINGS[verb][name]
    if not _FITS[kind](value):
        return f"is {value!r}, not {kind}"
    choices = CHOICES.get((verb, name))
    if choices and value not in choices:
        return f"is {value!r}, none of {', '.join(choices)}"
    if name in _COUNTS and kind == INT and value < 1:
        return f"is {value}, less than 1"
    return ""


def lora_file(text: str) -> str:
    """'style.safetensors:0.8' -> 'style.safetensors'."""
    return re.sub(r":[-+.\deE]+$", "", text)


def words(verb: str, settings: Mapping[str, Any], base: Path) -> list[str]:
    """The command line of these settings; paths are those seen from the recipe's folder."""
    found: list[str] = []
    for name, value in settings.items():
        option, kind = f"--{name.replace('_', '-')}", SETTINGS[verb][name]
        if kind == FLAG:
            found += [option] if value else []
        elif kind == LORAS:
            found += [word for one in value for word in (option, str(base / one))]
        elif kind == MODEL:
            found += [option, str(base / value) if (base / value).exists() else value]
        elif kind == LIST:
            found += [word for one in value for word in (option, one)]
        elif kind == WORDS and isinstance(value, list):
            found += [option, ",".join(value)]
        else:
            found += [option, str(base / value) if kind == PATH and value != "shapes" else str(value)]
    return found
