"""Show-o at its full shape, with random weights: names, memory and time of reading it from the hub's cache.

python benchmarks/showo.py --work /tmp     (6.6 GB of disk and 9 GB of memory, a few minutes)

With the real weights in the cache the same is one command: sanac generate showlab/show-o-256 "a lighthouse at dusk".
"""

import json
import os
import shutil
import sys
from pathlib import Path

import click
import torch
from measure import machine, watched

from sanac.core.family.magvit import Coder, MagvitArchitecture
from sanac.core.family.showo import ShowoArchitecture
from sanac.core.units import bytes_text
from sanac.tiny.tokens.build import text_tokenizer

RESULT = Path("docs/results/showo.json")
TRANSFORMER = ShowoArchitecture(24, 2048, 32, 8192, words=50295, codes=8192, image_tokens=256)
TOKENIZER = MagvitArchitecture(
    13, Coder((128, 256, 256, 512, 512), (4, 3, 4, 3, 4)), Coder((128, 128, 256, 256, 512), (4, 4, 3, 4, 3)), stem=128
)
REVISION = "a" * 40
_KEPT = ("codebook_size", "llm_vocab_size", "num_vq_tokens", "vocab_size", "w_clip_vit", "_class_name")


def snapshot(cache: Path, repository: str) -> Path:
    """An empty snapshot of a repository in a hub's cache."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(REVISION)
    (home / "snapshots" / REVISION).mkdir(parents=True, exist_ok=True)
    return home / "snapshots" / REVISION


def fill(cache: Path) -> None:
    """Write the three repositories as they lie in the cache: torch's own files, in fp32."""
    for repository, shape in (("showlab/show-o-256", TRANSFORMER), ("showlab/magvitv2", TOKENIZER)):
        folder = snapshot(cache, repository)
        torch.manual_seed(0)
        tensors = {name: 0.02 * torch.randn(size) for name, size in shape.tensors.items() if "quantize" not in name}
        tensors |= {name: torch.ones_like(value) for name, value in tensors.items() if "norm" in name}
        torch.save(tensors, folder / "pytorch_model.bin")
        config = {name: value for name, value in shape.config().items() if name in _KEPT}
        (folder / "config.json").write_text(json.dumps(config))
    words = snapshot(cache, "microsoft/phi-1_5")
    value = json.loads(text_tokenizer().to_str())
    known = value["model"]["vocab"]
    value["model"]["vocab"] = known | {f"word{number}": number for number in range(len(known), TRANSFORMER.words)}
    (words / "tokenizer.json").write_text(json.dumps(value))
    (words / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(work: Path) -> None:
    """Build, inspect, scan and generate, each in a process of its own; the checkpoint is deleted afterwards."""
    cache = work / "showo-hub"
    os.environ["HF_HUB_CACHE"] = str(cache)
    sanac = [sys.executable, "-m", "sanac"]
    name, found = "showlab/show-o-256", {}
    try:
        fill(cache)
        for what, command in (
            ("inspect", ["inspect", name]),
            ("inspect --scan", ["inspect", name, "--scan"]),
            ("generate, 2 steps", ["generate", name, "a red circle", "--steps", "2", "--out", str(work / "showo")]),
        ):
            run, said = watched([*sanac, *command])
            found[what] = {"seconds": run.seconds, "anonymous": run.anonymous}
            click.echo(f"{what}: {run.seconds:.1f} s, {bytes_text(run.anonymous)}")
            click.echo(said)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    RESULT.write_text(json.dumps({"machine": machine(), "commands": found}) + "\n")


if __name__ == "__main__":
    main()
