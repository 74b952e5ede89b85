"""A model taught by its own judge, and searched: the rows of "Can we generate images with CoT?", on both generators.

python benchmarks/reinforce.py --model tokens --work build/reinforce    (half an hour on one core)
python benchmarks/reinforce.py --model six --work build/reinforce       (a quarter of an hour)
python benchmarks/reinforce.py --table

`six` is sanac:tiny pruned to 6 blocks by importance, without repair or recovery. Models learn from samples of training
prompts; gates are chosen on tuning prompts; everything is reported on test prompts, opened once. The judge of previews
teaches and searches, the detector measures. Rows with a verifier are simulated from one matrix per model; training,
reflection and the stepwise search run for real.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import machine
from safetensors.torch import load_file
from torch import Tensor

import sanac
from sanac.core.artifact.token_model import AnyModel, open_any_model
from sanac.core.checkpoint.locate import TOKENS, locate
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context
from sanac.core.settings import build
from sanac.judge.distribution import compare
from sanac.judge.intervals import PromptScore, clustered_share, overall, paired_difference
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files
from sanac.judge.preview_judge import PreviewJudgeVerifier
from sanac.judge.requests import requests_of
from sanac.judge.shapes import judge_pictures
from sanac.nn.generation import GenerationSettings
from sanac.nn.save_tensors import save_tensors
from sanac.nn.stepwise import Noise
from sanac.reinforce import samples_job
from sanac.reinforce.rounds import Rounds
from sanac.reinforce.settings import JudgeSamplesSettings, ReinforceSettings
from sanac.search.generators import Stepwise, any_stepwise, open_any_generator
from sanac.search.judging import SearchJudge
from sanac.search.recorded import Matrix, simulate
from sanac.search.searcher import Searcher
from sanac.search.strategies import SearchPlan, default_looks
from sanac.shapes.prompts import Prompt, suite
from sanac.tiny.train import Lines
from sanac.tokens.generator import TokenGenerator
from sanac.tokens.sampling import TokenSampling
from sanac.train.loop import Callbacks
from sanac.verify.shapes_suite import rendered

RESULT = Path("docs/results/reinforce.json")
JUDGE = "judge:sanac:tiny"
LEARNED, TUNED, TESTED, NOISES = 384, 96, 256, 8  # prompts of each kind, and images of each
MODELS = {"tokens": TokenSampling(batch=64), "six": GenerationSettings(batch=128)}
UPDATES = 100
_SIX: Mapping[str, Any] = {"loss": "dpo", "learning_rate": 1e-4, "beta": 30.0}
_TOKENS: Mapping[str, Any] = {"loss": "dpo", "learning_rate": 5e-5, "beta": 20.0, "prompts_per_step": 32, "ema": 0.97}
HOW: Mapping[str, Mapping[str, Mapping[str, Any]]] = {  # chosen on tuning prompts
    "six": {
        "RFT": {"loss": "rft", "learning_rate": 1e-4},
        "DPO": _SIX,
        "iterated DPO": {**_SIX, "rounds": 2},
        "iterated DPO, guided by the judge": {**_SIX, "rounds": 2, "reward": 0.1},
        "DGPO": {"loss": "dgpo", "learning_rate": 1e-4, "beta": 100.0},
    },
    "tokens": {
        "RFT": {"loss": "rft", "learning_rate": 3e-5, "prompts_per_step": 64, "ema": 0.97},
        "DPO": _TOKENS,
        "iterated DPO": {**_TOKENS, "rounds": 2},
        "DPO, guided by the judge": {**_TOKENS, "reward": 0.1},
        "DGPO": {**_TOKENS, "loss": "dgpo", "prompts_per_step": 8},
    },
}
SEARCHED = ("base", "DPO", "iterated DPO")  # models whose previews are read, too
SHARES = ((0.4, 0.65), (0.5, 0.65, 0.8), (0.65, 0.8), (0.65,))  # looks of the gates, as shares of the steps
POTENTIALS = (0.1, 0.2, 0.35, 0.5)


@dataclass(frozen=True)
class Bench:
    """One model, its folder of work, and the judge."""

    name: str
    model: AnyModel
    work: Path

    @property
    def judge(self) -> PreviewJudgeVerifier:
        """The judge of previews."""
        return PreviewJudgeVerifier.open(judge_files("sanac:tiny", PREVIEW_JUDGE), "cpu")

    def stepwise(self, weights: Mapping[str, Tensor]) -> Stepwise:
        """The model with these weights, step by step."""
        generator = open_any_generator(self.model, "cpu", "torch", Lines())
        if weights:
            generator.load_weights(weights)
        if isinstance(generator, TokenGenerator):  # its weights are stored in bf16, which is twice as fast here
            generator.networks.transformer.bfloat16()
        return any_stepwise(generator, MODELS[self.name])

    def taught(self, row: str) -> tuple[dict[str, Tensor], float]:
        """(weights, seconds of training and sampling) of a row; what is there already is read."""
        samples = self.work / f"{self.name}-samples"
        given = {"num_prompts": LEARNED, "each": NOISES, "verifier": JUDGE, "batch": 64}
        samples_job.run(str(self.model.located.path), build(JudgeSamplesSettings, {**given, "out": samples}), Context())
        home = self.work / f"{self.name}-{row.replace(' ', '-').replace(',', '')}"
        file, clock = home / "weights.safetensors", home / "seconds.json"
        if not file.exists():
            home.mkdir(parents=True, exist_ok=True)
            how = {**given, "updates": UPDATES, "samples": samples, **HOW[self.name][row]}
            settings = build(ReinforceSettings, how)
            requests = samples_job.requests_for(settings, self.model)
            start = time.monotonic()
            rounds = Rounds(self.model, settings, requests, ConfinedPath(home), Lines())
            save_tensors(rounds.trained(ConfinedPath(home), Callbacks()), file)
            clock.write_text(json.dumps(time.monotonic() - start))
        return load_file(file), float(json.loads(clock.read_text()))

    def matrix(self, row: str, weights: Mapping[str, Tensor], split: str, *, previews: bool) -> "Recorded":
        """Scores of every prompt and noise; of previews where gates need them."""
        file = self.work / f"{self.name}-{split}-{row.replace(' ', '-').replace(',', '')}.npz"
        prompts = prompts_of(split)
        if not file.exists():
            np.savez_compressed(file, **self._filled(weights, prompts, previews=previews))
        found = dict(np.load(file))
        shape, costs = (len(prompts), NOISES), self.stepwise({}).costs
        seen = {key: found[key].reshape(*shape, -1) for key in ("clarity", "potential")}
        tasks = tuple(prompt.content.tag for prompt in prompts)
        texts = tuple(f"{number} {prompt.text}" for number, prompt in enumerate(prompts))
        scores, right = (found[key].reshape(shape).astype(float) for key in ("scores", "right"))
        return Recorded(Matrix(texts, tasks, costs, seen["clarity"], seen["potential"], scores, right), found["single"])

    def _filled(self, weights: Mapping[str, Tensor], prompts: Sequence[Prompt], *, previews: bool) -> dict[str, Any]:
        stepwise, judge = self.stepwise(weights), self.judge
        rows = [(prompt, noise) for prompt in range(len(prompts)) for noise in range(NOISES)]
        steps = len(stepwise.costs)
        found: dict[str, Any] = {key: np.zeros((len(rows), steps)) for key in ("clarity", "potential")}
        found |= {"scores": np.zeros(len(rows)), "right": np.zeros(len(rows)), "single": []}
        size = stepwise.sampling.batch
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            place = slice(start, start + len(some))
            asked = [prompts[prompt] for prompt, _ in some]
            requests = requests_of([one.text for one in asked])
            noises = [Noise(9_000_017 + prompt * NOISES + noise) for prompt, noise in some]
            images = stepwise.start([one.text for one in asked], noises)
            while images.done < images.steps:
                images.advance()
                if previews and images.done < images.steps:
                    said = judge.previews(list(images.preview()), requests, images.guess_noise)
                    found["clarity"][place, images.done - 1] = [one.clarity for one in said]
                    found["potential"][place, images.done - 1] = [one.potential for one in said]
            pictures = images.finish()
            found["scores"][place] = judge.scores(list(pictures), requests)
            found["right"][place] = [verdict.correct for verdict in judge_pictures(asked, list(pictures))]
            found["single"] += [pictures[row] for row, (_, noise) in enumerate(some) if noise == 0]
        return {**found, "single": np.stack(found["single"])}

    def real(self, strategy: str, weights: Mapping[str, Tensor], split: str) -> dict[str, Any]:
        """A search that changes trajectories, on every prompt."""
        file = self.work / f"{self.name}-{split}-real-{strategy}.json"
        if file.exists():
            return dict(json.loads(file.read_text()))
        stepwise, prompts = self.stepwise(weights), prompts_of(split)
        looks = default_looks(strategy, len(stepwise.costs))
        plan = SearchPlan(strategy, NOISES, NOISES, looks, until=0.5)
        searcher = Searcher(stepwise, SearchJudge(self.judge), plan)
        right = []
        for number, (prompt, request) in enumerate(zip(prompts, requests_of([p.text for p in prompts]), strict=True)):
            noises = range(9_000_017 + number * NOISES, 9_000_017 + (number + 1) * NOISES)
            picture = searcher.search(request, noises, len(prompts) - number)[0].winner.picture
            assert picture is not None
            right.append(float(judge_pictures([prompt], [picture])[0].correct))
        found = {"right": right, "forwards": searcher.budget.spent["forwards"] / len(prompts)}
        file.write_text(json.dumps(found))
        return found


@dataclass(frozen=True)
class Recorded:
    """A matrix, and the image of every prompt's first noise."""

    matrix: Matrix
    single: np.ndarray[Any, np.dtype[np.uint8]]


def prompts_of(split: str) -> list[Prompt]:
    """The prompts that gates are chosen by, or those that are reported."""
    return suite("tune", TUNED) if split == "tune" else suite("test", TESTED)


def model_of(name: str, work: Path) -> AnyModel:
    """sanac:tokens, or sanac:tiny pruned to 6 blocks."""
    if name == "tokens":
        return open_any_model(locate(TOKENS))
    made = sanac.open("sanac:tiny", workspace=work / "pruned").prune(target_blocks=6, select="bi")
    return open_any_model(locate(made.path))


def gates(matrix: Matrix) -> SearchPlan:
    """The gates with the best score on tuning prompts, of equal ones the cheapest."""
    steps = len(matrix.costs)
    plans = [
        SearchPlan("gated", NOISES, NOISES, tuple(round(share * steps) for share in shares), potential=potential)
        for shares in SHARES
        for potential in POTENTIALS
    ]
    found = [(simulate(matrix, plan), plan) for plan in plans]
    return max(found, key=lambda one: (overall(one[0].scores, resamples=1000).value, -one[0].forwards))[1]


def scored(prompts: Sequence[Prompt], right: Sequence[float]) -> list[PromptScore]:
    """Scores of one image per prompt, or shares of several."""
    pairs = enumerate(zip(prompts, right, strict=True))
    return [PromptScore(one.content.tag, f"{number} {one.text}", value, 1) for number, (one, value) in pairs]


def rows_of(bench: Bench) -> Iterator[tuple[str, list[PromptScore], float, dict[str, Any]]]:
    """(row, scores by prompt, forward passes of an image, more) of every row."""
    prompts, plan = prompts_of("test"), gates(bench.matrix("base", {}, "tune", previews=True).matrix)
    truth = rendered(prompts, 64, 0)
    for row in ("base", *HOW[bench.name]):
        weights, seconds = ({}, 0.0) if row == "base" else bench.taught(row)
        found = bench.matrix(row, weights, "test", previews=row in SEARCHED)
        distance = compare(found.single, truth)
        more = {"seconds": seconds, "frechet": distance.frechet, "diversity": distance.diversity.to_json()}
        one = simulate(found.matrix, SearchPlan("best-of", 1, NOISES))  # each of the noises alone
        yield row, one.scores, one.forwards, more
        best = simulate(found.matrix, SearchPlan("best-of", NOISES, NOISES))
        yield f"{row} with ORM", best.scores, best.forwards, {}
        if row in SEARCHED:
            gated = simulate(found.matrix, plan)
            yield f"{row} with PARM", gated.scores, gated.forwards, {"looks": plan.looks, "potential": plan.potential}
        if row == "base":
            for strategy, name in (("prm", "PRM"), ("reflection", "PARM++ (reflection)")):
                ran = bench.real(strategy, weights, "test")
                yield f"base with {name}", scored(prompts, ran["right"]), ran["forwards"], {}


def measured(bench: Bench) -> dict[str, Any]:
    """Every row with intervals, alone and against the base."""
    found: dict[str, Any] = {}
    base: list[PromptScore] = []
    for row, scores, forwards, more in rows_of(bench):
        base = base or scores
        tasks = {tag: [one for one in scores if one.task == tag] for tag in dict.fromkeys(one.task for one in scores)}
        found[row] = {
            "score": overall(scores).to_json(),
            "tasks": {tag: clustered_share(some).to_json() for tag, some in tasks.items()},
            "against_base": paired_difference(scores, base).to_json(),
            "forwards": forwards,
            "right": [one.right / one.images for one in scores],
            **more,
        }
        click.echo(f"{bench.name}: {row}: {found[row]['score']['value']:.3f}, {forwards:.0f} forwards", err=True)
    return found


ORDER = (  # the paper's
    ("base", "base with ORM"),
    ("base with ORM", "base with PARM"),
    ("base", "base with PRM"),
    ("base with PARM", "base with PARM++ (reflection)"),
    ("base", "DPO"),
    ("RFT", "DPO"),
    ("DPO", "iterated DPO"),
    ("iterated DPO", "iterated DPO with ORM"),
    ("iterated DPO", "iterated DPO with PARM"),
    ("iterated DPO with ORM", "iterated DPO with PARM"),
    ("iterated DPO", "iterated DPO, guided by the judge"),
    ("DPO", "DPO, guided by the judge"),
    ("base with PARM", "iterated DPO with PARM"),
    ("base with ORM", "DPO with ORM"),
    ("base with ORM", "iterated DPO with ORM"),
    ("base with ORM", "DGPO with ORM"),
    ("DPO", "DGPO"),
    ("RFT", "DGPO"),
)


def inequalities(found: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's order, one inequality at a time: the paired difference."""
    prompts = prompts_of("test")
    pairs = {}
    for less, more in ORDER:
        if not {less, more} <= found.keys():
            continue
        one, other = (scored(prompts, found[row]["right"]) for row in (more, less))
        pairs[f"{less} < {more}"] = paired_difference(one, other).to_json()
    return pairs


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables of docs/research/reinforce.md."""
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    for name, one in results["models"].items():
        yield f"\n{name}\n"
        yield f"| row | {' | '.join(tags)} | **overall** | against base | forwards | diversity | Fréchet |"
        yield f"|---|{'---|' * (len(tags) + 5)}"
        for row, cell in one["rows"].items():
            tasks = " | ".join(f"{cell['tasks'][tag]['value']:.2f}" for tag in tags)
            apart = "" if row == "base" else _interval(cell["against_base"])
            spread = f"{cell['diversity']['value']:.2f} | {cell['frechet']:.2f}" if "diversity" in cell else " | "
            score = cell["score"]
            whole = f"**{score['value']:.3f}** {score['low']:.3f} to {score['high']:.3f}"
            yield f"| {row} | {tasks} | {whole} | {apart} | {cell['forwards']:.0f} | {spread} |"
        yield "\n| inequality | difference |\n|---|---|"
        for text, found in one["inequalities"].items():
            verdict = "yes" if found["low"] > 0 else "no: the other way" if found["high"] < 0 else "open"
            yield f"| {text} | {_interval(found)} {verdict} |"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


@click.command()
@click.option("--model", type=click.Choice(list(MODELS)), default=None)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/reinforce"), show_default=True)
@click.option("--table", "only_table", is_flag=True, help="Print the tables from the results.")
def main(model: str | None, work: Path, *, only_table: bool) -> None:
    """Measure a model, and write docs/results/reinforce.json."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"models": {}}
    if model and not only_table:
        work.mkdir(parents=True, exist_ok=True)
        rows = measured(Bench(model, model_of(model, work), work))
        one = {"rows": rows, "inequalities": inequalities(rows), "updates": UPDATES, "how": HOW[model]}
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {"models": {}}
        known["models"][model] = one
        known["machine"] = machine()
        RESULT.write_text(json.dumps(known) + "\n")
    for line in table(known):
        click.echo(line)


if __name__ == "__main__":
    main()
