"""The main job on the embedded model: paint, prune by importance, recover, export, verify, judge, load elsewhere.

python examples/demo.py   (or `make demo`)
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

MODEL, PRUNED, RECOVERED = "sanac:tiny", "pruned", "recovered"
DEPTH, STEPS, IMAGES = 6, 100, 60


def sanac(*arguments: str) -> None:
    """Show a command, run it, fail with it."""
    print(f"\n$ sanac {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "sanac", *arguments], check=True)


def same_function(kept: list[int]) -> bool:
    """Whether stock diffusers computes, bit for bit, what deleting the blocks in memory gives."""
    import torch
    from diffusers import SanaTransformer2DModel

    from sanac.core.locate import locate

    expected = SanaTransformer2DModel.from_pretrained(locate(MODEL).path, subfolder="transformer").eval()
    expected.transformer_blocks = torch.nn.ModuleList(expected.transformer_blocks[index] for index in kept)
    found = SanaTransformer2DModel.from_pretrained(PRUNED, subfolder="transformer").eval()
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 16, 4, 4),
        "encoder_hidden_states": torch.randn(2, 12, 64),
        "timestep": torch.tensor([10.0, 900.0]),
    }
    with torch.no_grad():
        return torch.equal(found(**inputs).sample, expected(**inputs).sample)


def draw(picture: Path) -> None:
    """One image from the recovered pipeline, with nothing but diffusers."""
    import torch
    from diffusers import SanaPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pipe = SanaPipeline.from_pretrained(RECOVERED)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    pipe("two red circles", height=512, width=512, use_resolution_binning=False, generator=seed).images[0].save(picture)


def score(folder: str) -> float:
    """The shapes score that `sanac evaluate` left behind."""
    found = json.loads((Path(folder) / "measurements" / "evaluate-shapes.json").read_text())
    return float(found["overall"]["value"])


def main() -> int:
    """Run the demo; exits 5 when the comparison fails."""
    with tempfile.TemporaryDirectory(prefix="sanac-demo-") as folder:
        os.chdir(folder)
        sanac("inspect", MODEL)
        sanac("generate", MODEL, "two red circles", "a blue square above a cross", "--out", "pictures")
        sanac("prune", MODEL, "--target-blocks", str(DEPTH), "--num-prompts", "24", "--out", PRUNED)
        sanac("finetune", PRUNED, "--steps", str(STEPS), "--samples", "256", "--batch", "32", "--out", RECOVERED)
        sanac("inspect", RECOVERED)
        sanac("export", RECOVERED, "--in-place", "--precision", "fp32")
        for number, model in enumerate((MODEL, PRUNED, RECOVERED)):
            sanac("evaluate", model, "--suite", "shapes", "--images", str(IMAGES), "--out", f"judged-{number}")
        plan = json.loads((Path(PRUNED) / "sanac.json").read_text())["lineage"][-1]["plan"]
        kept = [origin["keep"] for origin in plan["blocks"]]
        equal = same_function(kept)
        draw(Path("image.png"))
        print(f"\nverdict: 12 -> {len(kept)} blocks, those that matter most: {', '.join(map(str, kept))}")
        proof = json.loads((Path(RECOVERED) / "measurements" / "verify-onnx.json").read_text())
        worst = next(figure["value"] for figure in proof["figures"] if figure["name"].startswith("relative error"))
        print(f"its ONNX graphs are the same function in onnxruntime: they differ by {worst:.0e} at most")
        print(f"stock diffusers loads it; its output is {'bitwise' if equal else 'NOT'} that of deleting the others")
        whole, cut, back = (score(f"judged-{number}") for number in range(3))
        print(f"shapes score on {IMAGES} test prompts: {whole:.2f} whole, {cut:.2f} pruned,", end=" ")
        print(f"{back:.2f} after {STEPS} steps of recovery, without data")
        os.chdir("/")
    return 0 if equal else 5


if __name__ == "__main__":
    sys.exit(main())
