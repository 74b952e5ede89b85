"""core knows bytes, not frameworks: it imports where torch and the rest are not installed."""

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "onnx", "onnxruntime", "torchao")
WALL = """
import importlib, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (not installed)", name=name)
sys.meta_path.insert(0, Wall())
for name in {modules}:
    importlib.import_module(name)
"""


def modules(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    return [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(spec.submodule_search_locations))]


COMPUTING = {  # these run the model, or read what it is given
    f"sanac.prune.{name}"
    for name in (
        "analyze_job", "confirm_job", "default_selection", "importance", "importance_job", "leave_one_out", "repair",
        "repair_job", "resume", "scoring", "search_job",
    )
}  # fmt: skip
COMPUTING |= {
    f"sanac.runtime.{name}"
    for name in (
        "backends",
        "bf16_to_fp32",
        "onnx_session",
        "pipeline_parts",
        "scheduled",
        "stepwise",
        "tensorrt_engine",
        "tiled_decode",
    )
}
COMPUTING |= {
    f"sanac.verify.{name}"
    for name in (
        "bench_job", "bench_worker", "compare", "compare_job", "compare_plan", "components", "depth_graphs",
        "end_to_end",
        "engine_candidates", "exported", "graph_cut", "job", "memory", "onnx_candidates", "parity",
        "evaluate_geneval", "evaluate_job", "evaluate_prompts", "evaluate_shapes", "parity_backends",
        "picture_measures", "prompt_scorer", "prompts_suite", "suite_generator",
        "rank_correlation", "show", "streamed_graph", "suite_scorer",
    )
}  # fmt: skip
COMPUTING |= {
    f"sanac.judge.{name}"
    for name in ("clip_colors", "clip_score", "geneval_hf", "mask2former", "preview_judge", "state_judge", "yes_no")
}
PACKAGES = ("core", "shapes", "judge", "cli", "prune", "grow", "runtime", "verify")


@pytest.mark.parametrize("package", [f"sanac.{name}" for name in PACKAGES])
def test_imports_without_frameworks(package: str) -> None:
    names = [name for name in modules(package) if name not in COMPUTING]
    assert len(names) > 1
    code = WALL.format(heavy=set(HEAVY), modules=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
