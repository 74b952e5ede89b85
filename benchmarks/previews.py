"""What each kind of generator guesses along its steps, with the judge's clarity: docs/pictures/previews.png.

python benchmarks/previews.py
"""

from pathlib import Path

import click
import matplotlib as mpl
import numpy as np

from sanac.core.artifact.token_model import open_any_model
from sanac.core.checkpoint.locate import TINY, TOKENS, locate
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER
from sanac.judge.requests import requests_of
from sanac.judge.verifier import Reading
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Noise, Pictures
from sanac.search.generators import Stepwise, any_stepwise, open_any_generator
from sanac.search.judging import SearchJudge
from sanac.search.verifiers import open_verifier
from sanac.tokens.sampling import TokenSampling

mpl.use("Agg")

PROMPTS = ("a red circle above a blue square", "three green triangles")
SHOWN = 8  # steps
KINDS = {TINY: GenerationSettings(), TOKENS: TokenSampling()}


def opened(model: str) -> Stepwise:
    """A model that takes its steps one by one."""
    generator = open_any_generator(open_any_model(locate(model)), "cpu", "torch", NULL_REPORTER)
    return any_stepwise(generator, KINDS[model])


def watched(stepwise: Stepwise, judge: SearchJudge, prompt: str, seed: int) -> list[tuple[int, Pictures, Reading]]:
    """(steps taken, preview, what the judge says of it) at some steps from the first to the last."""
    (request,) = requests_of([prompt])
    images, found = stepwise.start([prompt], [Noise(seed)]), []
    steps = {round(step) for step in np.linspace(1, images.steps, SHOWN)}
    while images.done < images.steps:
        images.advance()
        if images.done in steps:
            found.append((images.done, images.preview()[0], judge.read([images], request)[0]))
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/pictures/previews.png"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, seed: int) -> None:
    """Draw the guesses of both generators."""
    from matplotlib import pyplot as plt

    judge = SearchJudge(open_verifier([f"judge:{TINY}"], "cpu", ConfinedPath(Path("build/previews"))))
    rows = [(model, prompt) for model in KINDS for prompt in PROMPTS]
    figure = plt.figure(figsize=(1.25 * SHOWN, 1.9 * len(rows)), layout="constrained")
    for part, (model, prompt) in zip(figure.subfigures(len(rows)), rows, strict=True):
        part.suptitle(f"{model}: {prompt}", x=0.01, ha="left", fontsize=9)
        line = part.subplots(1, SHOWN)
        for place, (step, picture, reading) in zip(line, watched(opened(model), judge, prompt, seed), strict=True):
            place.imshow(picture)
            place.set(xticks=[], yticks=[], xlabel=f"step {step}\nclarity {reading.clarity:.2f}")
            place.xaxis.label.set_size(8)
    figure.savefig(out, dpi=120)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
