"""Examines this machine for `sanac doctor`: memory, disk, GPU, backends and package versions."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

from sanac.core.checkpoint.locate import DEFAULT_MODEL, locate
from sanac.core.errors import SanacError
from sanac.core.requirements import install_command
from sanac.core.resources import available_memory, existing, total_memory
from sanac.core.units import bytes_text

_COMPARED = ("torch", "diffusers", "transformers", "safetensors", "torchao", "onnx", "onnxscript", "accelerate")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. States: ok, warn, missing (optional but absent), broken (required but absent)."""

    group: str
    name: str
    state: str
    text: str
    hint: str = ""


def examine(workspace: Path) -> tuple[Finding, ...]:
    """All findings about this machine and the workspace's disk."""
    torch = _import("torch")
    return (*_machine(workspace), *_torch(torch), *_backends(torch), *_versions())


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: native libraries of the wheel don't load here
        return None


def _machine(workspace: Path) -> Iterator[Finding]:
    group = "machine"
    fits = sys.version_info >= (3, 11)
    yield Finding(group, "Python", "ok" if fits else "broken", f"{platform.python_version()} on {platform.platform()}")
    yield Finding(group, "processor", "ok", f"{processor()}, {len(os.sched_getaffinity(0))} cores to use")
    free, total = available_memory(), total_memory()
    yield Finding(
        group,
        "memory",
        "ok" if free > 4e9 else "warn",
        f"{bytes_text(free)} free of {bytes_text(total)}",
        "" if free > 4e9 else "loading a pipeline takes more; inspect, prune and grow don't",
    )
    folder = existing(workspace)
    disk = shutil.disk_usage(folder).free
    hint = "" if disk > 30e9 else "a 4.8B pipeline takes 17 GB"
    yield Finding(group, "disk", "ok" if disk > 30e9 else "warn", f"{bytes_text(disk)} free in {folder}", hint)
    yield _cache(group)


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cache(group: str) -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        locate(DEFAULT_MODEL)
    except SanacError as error:
        return Finding(group, "hub cache", "missing", f"{HF_HUB_CACHE}, without the default model", error.hint)
    return Finding(group, "hub cache", "ok", f"{HF_HUB_CACHE}, has {DEFAULT_MODEL}")


def _torch(torch: ModuleType | None) -> Iterator[Finding]:
    group = "torch"
    if torch is None:
        yield Finding(group, "torch", "broken", "cannot be imported", "pip install torch")
        return
    yield Finding(group, "torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield Finding(group, "driver", *_driver(torch))
    if not torch.cuda.is_available():
        yield Finding(group, "GPU", "missing", "none that torch can use: everything runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        text = f"{card.name}, SM{card.major}{card.minor}, {bytes_text(card.total_memory)}"
        yield Finding(group, f"GPU {index}", "ok", text)


def _driver(torch: ModuleType) -> tuple[str, str]:
    """(state, NVIDIA driver version and torch's CUDA version, readable)."""
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    try:
        line = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "missing", f"no NVIDIA driver is loaded; {built}"
    return "ok", f"{line.partition(':')[2].strip()}; {built}"


def _backends(torch: ModuleType | None) -> Iterator[Finding]:
    group = "backends"
    gpu = torch is not None and torch.cuda.is_available()
    yield _onnxruntime(group)
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if version(name)]
    if len(both) > 1:
        hint = "pip uninstall -y onnxruntime onnxruntime-gpu, then install one extra: cpu, gpu or rtx"
        yield Finding(group, "onnxruntime", "warn", "both wheels are installed and overwrite each other's files", hint)
    for name, package, extra, can in (
        ("tensorrt", "tensorrt", "gpu", "builds and runs engines for the installed GPU"),
        ("tensorrt-rtx", "tensorrt_rtx", "rtx", "builds engines ahead of time for other GPUs; runs them on RTX GPUs"),
    ):
        if _import(package) is None:
            hint = install_command(extra if gpu or extra == "gpu" else "rtx-build")
            yield Finding(group, name, "missing", "cannot build or run its engines here", hint)
        elif gpu or extra == "rtx":
            text = can if gpu else "builds engines ahead of time (--sm); running them needs a GPU"
            yield Finding(group, name, "ok", f"{version(name)}: {text}")
        else:
            yield Finding(
                group, name, "warn", f"{version(name)}: installed, but building and running engines needs a GPU"
            )


def _onnxruntime(group: str) -> Finding:
    runtime = _import("onnxruntime")
    if runtime is None:
        return Finding(group, "onnxruntime", "missing", "cannot run exported graphs here", install_command("cpu"))
    providers = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    return Finding(group, "onnxruntime", "ok", f"{runtime.__version__}, runs graphs on {', '.join(providers)}")


def version(distribution: str) -> str:
    """Installed version of a distribution; '' if it isn't installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _versions() -> Iterator[Finding]:
    """Compare installed versions with those that sanac was tested with."""
    lines = resources.files("sanac").joinpath("data/constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    for name in _COMPARED:
        found, expected = version(name).partition("+")[0], tested.get(name, "")
        if not found:
            yield Finding("versions", name, "broken", "not installed", f"pip install {name}=={expected}")
        elif found == expected:
            yield Finding("versions", name, "ok", f"{found}, as tested")
        else:
            hint = f"if something fails: pip install {name}=={expected}"
            yield Finding("versions", name, "warn", f"{found}, tested with {expected}", hint)
