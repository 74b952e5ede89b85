"""Trains the judges of sanac:tiny: `python -m sanac.tiny.judges FOLDER`. Run it again to resume.

Trajectories of the model, and of variants of it that fail more often, are gathered with what the detector sees in them;
then a judge of previews and a head on the generator's states are trained.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import torch

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import TINY, locate
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.judge.judge_files import PREVIEWS, STATES, save_judge
from sanac.judge.preview_judge import JudgeShape, PreviewJudge
from sanac.judge.state_judge import StateJudge, StateJudgeShape
from sanac.nn.device import pick_device
from sanac.nn.stock_loading import load_component
from sanac.reinforce.judge_task import PreviewJudgeTask, RunExamples, decoded
from sanac.reinforce.state_task import StateJudgeTask
from sanac.reinforce.trajectories import Trajectories
from sanac.reinforce.variants import Variant, gather_variants, random_variants
from sanac.shapes.prompts import Prompt, suite
from sanac.shapes.words import VOCABULARY
from sanac.tiny.train import Lines, errors_said
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the judges learn from, and for how long."""

    whole: int = 1500  # images of the whole model
    unguided: int = 500  # images without guidance
    shallow: tuple[int, int] = (12, 300)  # variants without five to seven of the last eight blocks, images of each
    early: tuple[int, int] = (3, 150)  # variants without one of the first blocks, images of each
    taps: tuple[int, ...] = (3, 11)  # blocks whose output is kept
    block: int = 3  # the one that the head reads behind
    steps: int = 3000
    state_steps: int = 2000
    rate: float = 1e-3
    seed: int = 1

    @property
    def variants(self) -> list[Variant]:
        """The generators that are judged. Which blocks go is random: none is a subset that sanac prunes to."""
        shallow = random_variants(range(4, 12), (5, 6, 7), *self.shallow, seed=self.seed)
        early = random_variants(range(1, 4), (1,), *self.early, seed=self.seed)
        return [Variant(self.whole), Variant(self.unguided, guidance=1.0), *shallow, *early]

    @property
    def prompts(self) -> list[Prompt]:
        """Training prompts, tasks in turn."""
        return suite("train", sum(variant.images for variant in self.variants))


def gathered(recipe: Recipe, model: Model, folder: Path, device: str, reporter: Reporter) -> list[Trajectories]:
    """The trajectories of all variants."""
    how = (recipe.taps, recipe.seed, folder / "trajectories", device, reporter)
    return list(gather_variants(model, recipe.variants, recipe.prompts, *how))


def train_previews(
    recipe: Recipe, model: Model, data: list[Trajectories], folder: Path, device: str, reporter: Reporter
) -> PreviewJudge:
    """The judge of previews, written to FOLDER/judge."""
    torch.manual_seed(recipe.seed)
    network: PreviewJudge = PreviewJudge(JudgeShape(VOCABULARY)).to(device)
    vae = load_component(model, "vae", torch.float32).to(device)
    task = PreviewJudgeTask(network, RunExamples(decoded(vae), data, recipe.prompts, device))
    schedule = Schedule(recipe.rate, recipe.steps, warmup=200)
    plan = Settings(schedule, seed=recipe.seed, weight_decay=0.05)
    network.load_state_dict(train(task, plan, ConfinedPath(folder) / "previews", reporter)["judge"])
    save_judge(network, network.shape.to_json(), ConfinedPath(folder) / PREVIEWS)
    return network


def train_states(recipe: Recipe, data: list[Trajectories], folder: Path, device: str, reporter: Reporter) -> StateJudge:
    """The head on the generator's states, written to FOLDER/state-judge."""
    torch.manual_seed(recipe.seed)
    channels, caption = data[0].states.shape[-1], data[0].caption.shape[-1]
    network: StateJudge = StateJudge(StateJudgeShape(recipe.block, channels, caption)).to(device)
    task = StateJudgeTask(network, data, recipe.prompts, recipe.taps.index(recipe.block))
    plan = Settings(Schedule(recipe.rate, recipe.state_steps, warmup=200), seed=recipe.seed, weight_decay=0.05)
    network.load_state_dict(train(task, plan, ConfinedPath(folder) / "states", reporter)["judge"])
    save_judge(network, network.shape.to_json(), ConfinedPath(folder) / STATES)
    return network


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(folder: Path, device: str) -> None:
    """Train the judges of sanac:tiny in FOLDER, resuming an earlier run."""
    recipe, reporter = Recipe(), Lines()
    folder.mkdir(parents=True, exist_ok=True)
    with errors_said():
        where, model = pick_device(device), open_model(locate(TINY))
        data = gathered(recipe, model, folder, where, reporter)
        train_states(recipe, data, folder, where, reporter)
        train_previews(recipe, model, data, folder, where, reporter)
    click.echo(f"wrote {folder / PREVIEWS} and {folder / STATES}")


if __name__ == "__main__":
    main()
