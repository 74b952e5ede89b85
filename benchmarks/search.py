"""What search buys, and at what price: score against block-forwards for every strategy.

python benchmarks/search.py --work build/judges     (after benchmarks/judges.py; half an hour on one core)
python benchmarks/search.py --table

Best-of, halving, gates and draws until the judge is sure are simulated from one matrix of scores per model
(`sanac.search.recorded`: the same code); what changes trajectories runs for real. Settings are chosen on tuning
prompts, everything is reported on test prompts. The judge of previews searches, the detector measures. A guided step of
twelve blocks counts twelve block-forwards, as in `sanac schedule`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import judges
import numpy as np
import search_charts
from measure import machine

from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.schedule import plain
from sanac.core.checkpoint.locate import locate
from sanac.judge.intervals import PromptScore, overall, paired_difference
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files
from sanac.judge.preview_judge import PreviewJudgeVerifier
from sanac.judge.requests import requests_of
from sanac.judge.shapes import judge_pictures
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.nn.stepwise import StepCost
from sanac.runtime.pipeline import open_generator
from sanac.runtime.stepwise import StepwiseSana
from sanac.search.judging import SearchJudge
from sanac.search.recorded import Matrix, simulate
from sanac.search.searcher import Searcher
from sanac.search.strategies import SearchPlan, default_looks
from sanac.shapes.prompts import Prompt

RESULT, CHART = Path("docs/results/search.json"), Path("docs/pictures/search.png")
SETS = {"12 blocks, unseen": 12, "12 blocks, three objects": 12, "6 blocks": 6, "4 blocks": 4}
RUN = ("12 blocks, unseen", "6 blocks")  # where searches that change trajectories are run
STEPS, BRANCHES, MOST, REAL = 20, 2, 16, 8
CUTS = ((4, 8), (6, 10), (8, 13), (10, 15), (13, 16), (10,), (13,), (16,))  # steps at which halving cuts
SHARES = (0.25, 0.5)
GATES = tuple((looks, potential) for looks in ((8, 13), (10, 13, 16), (13, 16)) for potential in (0.2, 0.35, 0.5, 0.7))
SURE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
LOSS = 0.01  # of the score of best-of-16, that a chosen setting may lose on tuning prompts
FEWER = (15, 10, 8, 6, 5, 4)


def matrix_of(name: str, work: Path) -> Matrix:
    """The scores of a set, filled by benchmarks/judges.py."""
    blocks, prompts = judges.set_of(name)
    model, data = judges.trajectories(name, work, MOST)
    said = judges.readings(name, model, data, work / f"{judges.file_of(name)}.npz")
    shape = (len(prompts), MOST)
    previews = {key: said[key][:, :STEPS].reshape(*shape, STEPS) for key in ("clarity", "potential")}
    return Matrix(
        tuple(prompt.text for prompt in prompts),
        tuple(prompt.content.tag for prompt in prompts),
        (StepCost(BRANCHES, BRANCHES * blocks),) * STEPS,
        previews["clarity"],
        previews["potential"],
        said["final"][:, -1].reshape(shape),
        said["right"][:, -1].reshape(shape),
    )


def plans() -> Iterator[tuple[str, str, SearchPlan]]:
    """(strategy, name, plan) of everything that is simulated."""
    for n in (1, 2, 4, 8, 16):
        yield "best-of", f"best of {n}" if n > 1 else "single", SearchPlan("best-of", n, MOST)
    for n in (8, 16):
        for cuts in CUTS:
            for share in SHARES:
                yield "halving", f"halving {n} at {cuts}, {share:g}", SearchPlan("halving", n, MOST, cuts, share)
        for looks, potential in GATES:
            yield (
                "gated",
                f"gates {n} at {looks}, {potential:g}",
                SearchPlan("gated", n, MOST, looks, 0.5, 0.5, potential),
            )
    for sure in SURE:
        yield "until", f"until {sure:g}", SearchPlan("best-of", MOST, 1, until=sure)


def row_of(scores: Sequence[PromptScore], block_forwards: float, forwards: float, decodes: float) -> dict[str, Any]:
    """A row of the table; the correct images by prompt, so that rows can be paired."""
    return {
        "score": overall(scores, resamples=2000).to_json(),
        "block_forwards": block_forwards / BRANCHES,
        "forwards": forwards,
        "decodes": decodes,
        "right": [[one.task, one.prompt, one.right, one.images] for one in scores],
    }


def simulated(matrix: Matrix) -> dict[str, dict[str, Any]]:
    """Every plan, simulated."""
    found = {}
    for strategy, name, plan in plans():
        one = simulate(matrix, plan)
        found[name] = {"strategy": strategy, **row_of(one.scores, one.block_forwards, one.forwards, one.decodes)}
    return found


def chosen(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of each strategy the cheapest setting that loses at most a point to best of 16, on tuning prompts."""
    least = rows["best of 16"]["score"]["value"] - LOSS
    found = {}
    for strategy in ("halving", "gated", "until"):
        mine = {name: row for name, row in rows.items() if row["strategy"] == strategy}
        good = {name: row for name, row in mine.items() if row["score"]["value"] >= least}
        best = max(row["score"]["value"] for row in mine.values())
        pool = good or {name: row for name, row in mine.items() if row["score"]["value"] == best}
        found[strategy] = min(pool, key=lambda name: pool[name]["block_forwards"])
    return found


def real(
    model: Model, prompts: Sequence[Prompt], plan: SearchPlan, steps: int = STEPS, draft: int = 0
) -> dict[str, Any]:
    """A search that runs, with the judge of previews; scored by the detector."""
    generator = open_generator(model)
    settings = GenerationSettings(steps, batch=plan.batch)
    verifier = PreviewJudgeVerifier.open(judge_files("sanac:tiny", PREVIEW_JUDGE), "cpu")
    drafting = StepwiseSana(generator, replace(settings, steps=draft)) if draft else None
    searcher = Searcher(StepwiseSana(generator, settings), SearchJudge(verifier), plan, drafting=drafting)
    scores = []
    for number, (prompt, request) in enumerate(zip(prompts, requests_of([p.text for p in prompts]), strict=True)):
        first = 9_000_017 + number * MOST  # the noises of the matrix
        found, _ = searcher.search(request, range(first, first + plan.n), len(prompts) - number)
        (verdict,) = judge_pictures([prompt], [found.winner.picture])
        scores.append(PromptScore(prompt.content.tag, prompt.text, float(verdict.correct), 1))
    spent = searcher.budget.spent
    costs = (spent[name] / len(prompts) for name in ("block_forwards", "forwards", "decodes"))
    return row_of(scores, *costs)


def really(model: Model, prompts: Sequence[Prompt], done: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What changes trajectories, and plain best-of and halving beside it, on the same prompts."""
    n = REAL
    works = {
        f"best of {n}, run": (SearchPlan("best-of", n, n), 0),
        f"halving {n} at (8, 13), 0.5, run": (SearchPlan("halving", n, n, (8, 13)), 0),
        f"prm {n}": (SearchPlan("prm", n, n, default_looks("prm", STEPS)), 0),
        f"two-stage {n}, 10 steps": (SearchPlan("two-stage", n, n), 10),
        f"reflection {n}": (SearchPlan("reflection", n, n), 0),
        f"zero-order {n}": (SearchPlan("zero-order", n, n, neighbours=2), 0),
        f"paths {n}": (SearchPlan("paths", n, n, default_looks("paths", STEPS)), 0),
    }
    for name, (plan, draft) in works.items():
        if name not in done:
            yield name, {"strategy": name.partition(" ")[0], **real(model, prompts, plan, draft=draft)}


def singles(model: Model, prompts: Sequence[Prompt], steps: int) -> dict[str, Any]:
    """Four images of every prompt in so many steps."""
    generator, scores, each = open_generator(model), {}, 4
    texts = [prompt.text for prompt in prompts for _ in range(each)]
    seeds = [9_000_017 + number * MOST + place for number in range(len(prompts)) for place in range(each)]
    settings = GenerationSettings(steps, batch=128)
    pictures = np.concatenate(list(generator.generate(texts, seeds, settings)))
    verdicts = judge_pictures([prompt for prompt in prompts for _ in range(each)], list(pictures))
    for number, prompt in enumerate(prompts):
        right = sum(verdict.correct for verdict in verdicts[each * number : each * (number + 1)])
        scores[number] = PromptScore(prompt.content.tag, prompt.text, float(right), each)
    schedule = model.schedule or plain(model.architecture.blocks, noise_levels(model, steps))
    cost = BRANCHES * float(schedule.forwards)
    return row_of(list(scores.values()), cost, BRANCHES * steps, 1)


def scores_of(row: Mapping[str, Any]) -> list[PromptScore]:
    """The scores of a row by prompt."""
    return [PromptScore(*one) for one in row["right"]]


def pair(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The paired difference of two rows of the same prompts."""
    return paired_difference(scores_of(one), scores_of(other), resamples=2000).to_json()


def reported(rows: Mapping[str, Any], choice: Mapping[str, str]) -> list[str]:
    """The rows of the table: best-of, what was chosen, everything that ran."""
    names = [name for name, row in rows.items() if row["strategy"] in {"best-of", "fewer", "other"}]
    names += list(choice.values())
    ran = {"prm", "two-stage", "reflection", "zero-order", "paths"}
    names += [name for name, row in rows.items() if row["strategy"] in ran or name.endswith(", run")]
    return list(dict.fromkeys(names))


def signed(one: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def show(found: Mapping[str, Any]) -> None:
    """The table."""
    for name, part in found["sets"].items():
        click.echo(f"\n**{name}**\n\n| search | block-forwards | score | to best of 16 | tuning prompts |")
        click.echo("|---|---|---|---|---|")
        for row_name in part["reported"]:
            row = part["rows"][row_name]
            score, difference = row["score"], part["to best of 16"].get(row_name)
            cells = [row_name, f"{row['block_forwards']:.0f}"]
            cells.append(f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]")
            tuning = f"{part['tuning'][row_name][0]:.3f}" if row_name in part["tuning"] else ""
            click.echo(f"| {' | '.join([*cells, signed(difference) if difference else '', tuning])} |")
    click.echo("\n**whole model on the same test prompts**\n\n| steps | block-forwards | score |\n|---|---|---|")
    for steps, row in found["whole in steps"].items():
        score = row["score"]
        bounds = f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        click.echo(f"| {steps} | {row['block_forwards']:.0f} | {bounds} |")
    click.echo("\n| difference (block-forwards) | |\n|---|---|")
    for name, one in found["differences"].items():
        click.echo(f"| {name} | {signed(one)} |")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/judges"), help="Of benchmarks/judges.py.")
@click.option("--scheduled", type=click.Path(path_type=Path), help="sanac:tiny with a schedule: one more row.")
@click.option("--table", is_flag=True, help="Show what was measured.")
def main(*, work: Path, scheduled: Path | None, table: bool) -> None:
    """Simulate, run, draw and show."""
    if table:
        show(json.loads(RESULT.read_text()))
        return
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"machine": machine(), "sets": {}}
    for name, blocks in SETS.items():
        part = found["sets"].setdefault(name, {"rows": {}})
        tuning = simulated(matrix_of(f"{name}, tuning", work))
        choice = chosen(tuning)
        part["tuning"] = {row: [one["score"]["value"], one["block_forwards"]] for row, one in tuning.items()}
        part["rows"] |= simulated(matrix_of(name, work))
        model, (_, prompts) = judges.model_of(blocks, work), judges.set_of(name)
        if name in RUN:
            for row_name, row in really(model, prompts, part["rows"]):
                part["rows"][row_name] = row
                RESULT.write_text(json.dumps(found) + "\n")
        for steps in FEWER if blocks == 12 else ():
            if f"{steps} steps" not in part["rows"]:
                part["rows"][f"{steps} steps"] = {"strategy": "fewer", **singles(model, prompts, steps)}
        part["chosen"], part["reported"] = choice, reported(part["rows"], choice)
        part["simulated"] = {
            row: [one["score"]["value"], one["block_forwards"]]
            for row, one in part["rows"].items()
            if row not in part["reported"]
        }
        part["rows"] = {row: part["rows"][row] for row in part["reported"]}
        part["to best of 16"] = {
            row: pair(part["rows"][row], part["rows"]["best of 16"]) for row in part["reported"] if row != "best of 16"
        }
        RESULT.write_text(json.dumps(found) + "\n")
    found["sets"] = {name: found["sets"][name] for name in SETS}
    others(found, scheduled)
    RESULT.write_text(json.dumps(found) + "\n")
    search_charts.draw(found, CHART)
    show(found)


def others(found: dict[str, Any], scheduled: Path | None) -> None:
    """The whole model once on the test prompts, against smaller or scheduled ones with a search."""
    prompts = judges.set_of("6 blocks")[1]
    if "whole" not in found:
        found["whole"] = {"strategy": "other", **singles(open_model(locate("sanac:tiny")), prompts, STEPS)}
    whole = found["whole"]
    rows = found.setdefault("whole in steps", {})
    for steps in FEWER:
        if str(steps) not in rows:
            rows[str(steps)] = {"strategy": "fewer", **singles(open_model(locate("sanac:tiny")), prompts, steps)}
    found["differences"] = {}
    for name in RUN:
        rows = found["sets"][name]["rows"]
        for other in (f"reflection {REAL}", f"two-stage {REAL}, 10 steps"):
            costs = f"({rows[other]['block_forwards']:.0f}, {rows['best of 4']['block_forwards']:.0f})"
            found["differences"][f"{name}, {other} over best of 4 {costs}"] = pair(rows[other], rows["best of 4"])
    for name in ("6 blocks", "4 blocks"):
        rows, tuning = found["sets"][name]["rows"], found["sets"][name]["tuning"]
        cheap = [row for row in rows if row in tuning and tuning[row][1] <= whole["block_forwards"]]
        best = max(cheap, key=lambda row: tuning[row][0])
        title = f"{name}, {best} ({rows[best]['block_forwards']:.0f}) over the whole model once"
        found["differences"][title] = pair(rows[best], whole)
    if scheduled:
        model = open_model(locate(str(scheduled)))
        assert model.schedule
        for n in (1, 2, 4):
            plan = SearchPlan("best-of", n, n)
            found.setdefault("scheduled", {})[str(n)] = real(model, prompts, plan, model.schedule.steps)
    for n, row in found.get("scheduled", {}).items():
        title = f"scheduled at a fifth, best of {n} ({row['block_forwards']:.0f}) over the whole model once"
        found["differences"][title] = pair(row, whole)


if __name__ == "__main__":
    main()
