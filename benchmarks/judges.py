"""How good judges are: on finished images, on previews, and as verifiers of best-of-N.

python benchmarks/judges.py --work build/judges     (an hour on one core; docs/results/judges.json and two charts)
python benchmarks/judges.py --table

The detector is the measure, the judges were trained on its verdicts for training prompts and other variants of the
model. Prompts are test prompts, or the half of the held-out contents that no choice is made by.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from judge_charts import draw_best_of, draw_previews
from measure import machine
from numpy.typing import NDArray

import sanac
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.judge.distribution import compare
from sanac.judge.geneval import judge
from sanac.judge.intervals import PromptScore, clustered_share, overall
from sanac.judge.judge_files import PREVIEW_JUDGE, STATE_JUDGE, STATES, judge_files
from sanac.judge.preview_judge import PreviewJudgeVerifier
from sanac.judge.shapes import SHAPES_RULES
from sanac.judge.state_judge import StateReader, block_in
from sanac.judge.verifier import Request
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Noise
from sanac.nn.stock_loading import load_component
from sanac.reinforce.judge_task import task_of
from sanac.reinforce.trajectories import Trajectories, gather
from sanac.runtime.pipeline import open_generator
from sanac.runtime.stepwise import StepwiseSana
from sanac.shapes.prompts import Content, ItemSpec, Prompt, suite, unseen_suite
from sanac.shapes.words import COLORS, SHAPES
from sanac.tiny.train import Lines

RESULT, PICTURES = Path("docs/results/judges.json"), Path("docs/pictures")
PROMPTS, NOISES, STEPS = 128, 16, 20
COUNTS = (1, 2, 4, 8, 16)
SHOWN = (2, 4, 6, 8, 10, 13, 16, 20)  # steps in tables
RESAMPLES = 400
Floats = NDArray[np.float64]


def three_objects(count: int) -> list[Prompt]:
    """Prompts for three different shapes with a colour each: one more than training ever showed."""
    rng, found = np.random.default_rng(1), dict[str, Prompt]()
    while len(found) < count:
        pairs = zip(rng.permutation(SHAPES)[:3], rng.permutation(list(COLORS))[:3], strict=True)
        items = tuple(ItemSpec(str(shape), str(color)) for shape, color in pairs)
        text = " and ".join(f"a {item.color} {item.shape}" for item in items)
        found.setdefault(text, Prompt(text, Content("color_attr", items)))  # the task that they extend
    return list(found.values())


def sets() -> dict[str, tuple[int, list[Prompt]]]:
    """The blocks that are left, and the prompts, of each set of images that is reported."""
    test = suite("test", PROMPTS)
    return {
        "12 blocks, unseen": (12, unseen_suite(PROMPTS)),
        "12 blocks, three objects": (12, three_objects(PROMPTS)),
        "8 blocks": (8, test),
        "6 blocks": (6, test),
        "4 blocks": (4, test),
    }


def tuning_sets() -> dict[str, tuple[int, list[Prompt]]]:
    """Sets to choose settings by: other prompts, half as many."""
    tune = suite("tune", PROMPTS // 2)
    return {
        "12 blocks, unseen, tuning": (12, unseen_suite(PROMPTS // 2, "tune")),
        "12 blocks, three objects, tuning": (12, three_objects(PROMPTS + PROMPTS // 2)[PROMPTS:]),
        "6 blocks, tuning": (6, tune),
        "4 blocks, tuning": (4, tune),
    }


def set_of(name: str) -> tuple[int, list[Prompt]]:
    """The blocks and prompts of a set."""
    return (sets() | tuning_sets())[name]


def file_of(name: str) -> str:
    """A set's name as a file name."""
    return name.replace(", ", "-").replace(" ", "-")


def model_of(blocks: int, work: Path) -> Model:
    """sanac:tiny, or its most important blocks without repair."""
    if blocks == 12:
        return open_model(locate("sanac:tiny"))
    made = sanac.open("sanac:tiny", workspace=work).prune(target_blocks=blocks, select="bi")
    return open_model(locate(made.path))


def trajectories(name: str, work: Path, noises: int) -> tuple[Model, Trajectories]:
    """The trajectories of a set: every prompt from so many noises."""
    blocks, prompts = set_of(name)
    model = model_of(blocks, work)
    tap = block_in(model, state_files().config["block"])
    generator = StepwiseSana(open_generator(model), GenerationSettings(STEPS, batch=128), (tap,))
    numbers = [number for number in range(len(prompts)) for _ in range(noises)]
    seeds = [9_000_017 + place for place in range(len(numbers))]
    file = work / f"{file_of(name)}-{noises}.safetensors"
    return model, gather(generator, [prompts[n].text for n in numbers], numbers, seeds, file, Lines())


def state_files() -> Any:
    """The head of sanac:tiny."""
    return judge_files("sanac:tiny", STATE_JUDGE, STATES)


def readings(name: str, model: Model, data: Trajectories, file: Path) -> dict[str, NDArray[Any]]:
    """What everyone says of every preview: (runs, steps + 1); the last column is the finished image."""
    if file.exists():
        return dict(np.load(file))
    prompts = set_of(name)[1]
    previews = PreviewJudgeVerifier.open(judge_files("sanac:tiny", PREVIEW_JUDGE), "cpu")
    states = StateReader.open(state_files(), "cpu")
    vae = load_component(model, "vae", torch.float32)
    runs, steps = data.guesses.shape[:2]
    found = {key: np.zeros((runs, steps)) for key in ("right", "soft", "clarity", "potential", "final")}
    found |= {key: np.zeros((runs, steps - 1)) for key in ("state clarity", "state potential")}
    for run in range(runs):
        task = task_of(prompts[int(data.prompts[run])].content)
        for step in range(steps):
            verdict = judge(task, data.detections(run, step), SHAPES_RULES)
            found["right"][run, step], found["soft"][run, step] = verdict.correct, verdict.soft
    requests = [Request(prompts[int(number)].text) for number in data.prompts]
    for step in range(steps):
        for start in range(0, runs, 256):
            some = slice(start, start + 256)
            with torch.no_grad():
                decoded = vae.decode(data.guesses[some, step].float(), return_dict=False)[0]
            images = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            said = previews.previews(list(images), requests[some], float(data.noise[step]))
            for key in ("clarity", "potential", "final"):
                found[key][some, step] = [getattr(one, key) for one in said]
            if step < steps - 1:
                tokens = data.states[some, step, 0].float()
                heard = states.readings(tokens, data.caption[some], float(data.noise[step]), 4)
                for key in ("clarity", "potential"):
                    found[f"state {key}"][some, step] = [getattr(one, key) for one in heard]
    np.savez_compressed(file, **found, prompts=data.prompts.numpy())
    return found | {"prompts": data.prompts.numpy()}


def auc(scores: Floats, right: Floats) -> float:
    """The chance that a right one scores higher than a wrong one; ties count half. NaN without both."""
    order = np.argsort(scores, kind="stable")
    _, place, counts = np.unique(scores[order], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = np.empty(len(scores))
    ranks[order] = ((last - counts + 1 + last) / 2)[place]
    good, bad = right.sum(), (1 - right).sum()
    return float((ranks[right > 0].sum() - good * (good + 1) / 2) / (good * bad)) if good and bad else float("nan")


def within(scores: Floats, right: Floats, prompts: NDArray[Any]) -> Floats:
    """Of each prompt (pairs of a right and a wrong image that are in the right order, all such pairs)."""
    found = []
    for prompt in np.unique(prompts):
        mine = prompts == prompt
        good, bad = scores[mine & (right > 0)], scores[mine & (right == 0)]
        won = float((good[:, None] > bad).sum() + 0.5 * (good[:, None] == bad).sum())
        found.append((won, float(len(good) * len(bad))))
    return np.asarray(found)


def within_interval(one: Floats, other: Floats | None = None) -> list[float]:
    """[value, low, high] of the share of pairs in the right order, or of the difference of two judges' shares."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(one), (RESAMPLES, len(one)))
    every = np.vstack([np.arange(len(one)), drawn])
    shares = one[every, 0].sum(axis=1) / one[every, 1].sum(axis=1)
    if other is not None:
        shares = shares - other[every, 0].sum(axis=1) / other[every, 1].sum(axis=1)
    return [round(float(value), 4) for value in (shares[0], *np.quantile(shares[1:], (0.025, 0.975)))]


def interval(
    measure: Callable[[NDArray[Any]], float], prompts: NDArray[Any], resamples: int = RESAMPLES
) -> list[float]:
    """[value, low, high]: a bootstrap over prompts; `measure` gets the runs that are drawn."""
    rng, names = np.random.default_rng(0), np.unique(prompts)
    runs = {name: np.flatnonzero(prompts == name) for name in names}
    drawn = [measure(np.concatenate([runs[name] for name in rng.choice(names, len(names))])) for _ in range(resamples)]
    every = np.arange(len(prompts))
    return [round(float(one), 4) for one in (measure(every), *np.nanquantile(drawn, (0.025, 0.975)))]


def preview_figures(said: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """AUC of everyone's word for the final verdict, by step, and of the differences to the clean detector."""
    right, prompts = said["right"][:, -1], said["prompts"]
    found: dict[str, Any] = {}
    for step in SHOWN:
        columns = {"detector": said["soft"], "judge": said["potential"], "states": said["state potential"]}
        scores = {key: values[:, step - 1] for key, values in columns.items() if step <= values.shape[1]}
        row = {key: interval(lambda some, s=s: auc(s[some], right[some]), prompts) for key, s in scores.items()}
        pairs = {key: within(s, right, prompts) for key, s in scores.items()}
        row |= {f"{key} within": within_interval(one) for key, one in pairs.items()}
        for key in ("judge", "states"):
            s, base = scores[key], scores["detector"]
            row[f"{key} to detector, within"] = within_interval(pairs[key], pairs["detector"])
            row[f"{key} to detector"] = interval(
                lambda some, s=s, base=base: auc(s[some], right[some]) - auc(base[some], right[some]), prompts
            )
        row["settled"] = [round(float(np.mean(said["right"][:, step - 1] == right)), 4)]
        found[str(step)] = row
    return found


def accuracy(said: Mapping[str, NDArray[Any]], names: Sequence[Prompt]) -> dict[str, Any]:
    """How often the judge's verdict on the finished image is the detector's."""
    agree = (said["final"][:, -1] > 0.5) == (said["right"][:, -1] > 0)
    scores = [
        PromptScore(
            "",
            names[int(number)].text,
            float(agree[said["prompts"] == number].sum()),
            int((said["prompts"] == number).sum()),
        )
        for number in np.unique(said["prompts"])
    ]
    share = float(np.mean(said["right"][:, -1]))
    return clustered_share(scores).to_json() | {"right": round(share, 4)}


def best_of(said: Mapping[str, NDArray[Any]], names: Sequence[Prompt], noises: int) -> dict[str, Any]:
    """Score of the judge's, the detector's and no one's choice among N noises: each group of N in turn."""
    right = said["right"][:, -1].reshape(-1, noises)
    scores = {"judge": said["final"][:, -1].reshape(-1, noises), "oracle": right}
    order = said["prompts"].reshape(-1, noises)[:, 0]
    found: dict[str, Any] = {}
    for key, values in scores.items():
        found[key] = {}
        for count in COUNTS:
            groups = values.reshape(len(values), noises // count, count)
            won = np.take_along_axis(right.reshape(groups.shape), groups.argmax(axis=2)[..., None], axis=2)[..., 0]
            rows = [
                PromptScore(names[int(n)].content.tag, f"{n}", float(one.sum()), len(one))
                for n, one in zip(order, won, strict=True)
            ]
            found[key][str(count)] = overall(rows, resamples=2000).to_json()
    return found


def diversity(said: Mapping[str, NDArray[Any]], data: Trajectories, model: Model, noises: int) -> dict[str, Any]:
    """Diversity of the winners among N relative to the first images of the same prompts; 1: as varied."""
    vae = load_component(model, "vae", torch.float32)
    scores = said["final"][:, -1].reshape(-1, noises)
    start = np.arange(len(scores)) * noises

    def images(rows: NDArray[Any]) -> NDArray[np.uint8]:
        with torch.no_grad():
            decoded = vae.decode(data.guesses[torch.from_numpy(rows), -1].float(), return_dict=False)[0]
        found: NDArray[np.uint8] = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return found

    first = images(start)
    return {
        str(count): compare(images(start + scores[:, :count].argmax(axis=1)), first).diversity.to_json()
        for count in COUNTS
    }


def costs(name: str, model: Model, data: Trajectories) -> dict[str, float]:
    """Milliseconds per preview, on one thread: decoding, detector, judge of previews, head on states; and a step."""
    from sanac.judge.shapes import look

    prompts = set_of(name)[1]
    previews = PreviewJudgeVerifier.open(judge_files("sanac:tiny", PREVIEW_JUDGE), "cpu")
    states = StateReader.open(state_files(), "cpu")
    vae, count = load_component(model, "vae", torch.float32), 64
    requests = [Request(prompts[int(number)].text) for number in data.prompts[:count]]
    latents = data.guesses[:count, 8].float()
    with torch.no_grad():
        decoded = vae.decode(latents, return_dict=False)[0]
    images = list(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    stepwise = StepwiseSana(open_generator(model), GenerationSettings(STEPS, batch=count))
    running = stepwise.start([request.prompt for request in requests], list(map(Noise, range(count))))
    tokens = data.states[:count, 8, 0].float()

    def decode() -> None:
        with torch.no_grad():
            vae.decode(latents, return_dict=False)

    works: dict[str, Callable[[], Any]] = {
        "step": running.advance,
        "decode": decode,
        "detector": lambda: [look(image) for image in images],
        "judge": lambda: previews.previews(images, requests, 0.5),
        "states": lambda: states.readings(tokens, data.caption[:count], 0.5, 4),
    }
    times: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(5):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            times[key].append(1000 * (time.perf_counter() - start) / count)
    return {key: round(float(np.median(some)), 3) for key, some in times.items()}


def show(found: Mapping[str, Any]) -> None:
    """The tables."""
    click.echo("| images | right | judge agrees | best of 1 | 2 | 4 | 8 | 16 | oracle 16 | diversity at 16 |")
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in found["sets"].items():
        agrees, best = row["accuracy"], row["best of"]
        cells = [f"{best['judge'][str(count)]['value']:.3f}" for count in COUNTS]
        cells += [f"{best['oracle']['16']['value']:.3f}", f"{row['diversity']['16']['value']:.2f}"]
        bounds = f"{agrees['value']:.3f} [{agrees['low']:.3f}, {agrees['high']:.3f}]"
        click.echo(f"| {name} | {agrees['right']:.3f} | {bounds} | {' | '.join(cells)} |")
    for mark in ("", " within"):
        click.echo("\n| images | step | detector | judge | states | judge - detector | states - detector |")
        click.echo("|---|---|---|---|---|---|---|")
        for name, row in found["sets"].items():
            for step, figures in row["previews"].items():
                cells = [f"{figures[key + mark][0]:.2f}" for key in ("detector", "judge", "states")]
                for key in ("judge", "states"):
                    value, low, high = figures[f"{key} to detector{mark and ',' + mark}"]
                    cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
                click.echo(f"| {name} | {step} | {' | '.join(cells)} |")
    click.echo("\nmilliseconds: " + ", ".join(f"{key} {value:g}" for key, value in found["costs"].items()))


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/judges"), help="Where images are kept.")
@click.option("--noises", default=NOISES, show_default=True, help="Noises per prompt.")
@click.option("--table", is_flag=True, help="Show what was measured.")
def main(*, work: Path, noises: int, table: bool) -> None:
    """Measure, draw and show."""
    if table:
        show(json.loads(RESULT.read_text()))
        return
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "prompts": PROMPTS, "noises": noises, "sets": {}}
    for name, (_, prompts) in sets().items():
        model, data = trajectories(name, work, noises)
        said = readings(name, model, data, work / f"{file_of(name)}.npz")
        found["sets"][name] = {
            "accuracy": accuracy(said, prompts),
            "previews": preview_figures(said),
            "best of": best_of(said, prompts, noises),
            "diversity": diversity(said, data, model, noises),
        }
        found.setdefault("costs", costs(name, model, data))
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    draw_best_of(found, PICTURES / "best-of.png")
    draw_previews(found, PICTURES / "previews.png")
    show(found)


if __name__ == "__main__":
    main()
