"""How well the shapes detector sees: confusion tables on rendered and on corrupted scenes, its speed, a gallery.

python benchmarks/detector.py --scenes 10000 --out docs
"""

import json
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
from measure import machine
from PIL import Image, ImageDraw

from sanac.judge.geneval import relations
from sanac.judge.shapes import SURE, look
from sanac.shapes.corrupt import like_a_generators
from sanac.shapes.prompts import suite
from sanac.shapes.render import pixel_box, render
from sanac.shapes.scene import Scene, draw_scene
from sanac.shapes.words import COLORS, RELATIONS, SHAPES, TAGS

SIZE = 64
NOTHING = "nothing"
STRENGTHS = {"rendered": 0.0, "corrupted": 1.0, "corrupted twice as strongly": 2.0}


def scenes(count: int) -> list[Scene]:
    """Scenes of all tasks, held-out kinds included."""
    splits = ("test", "tune", "train", "held-out")
    prompts = [prompt for split in splits for prompt in suite(split, count // len(splits))]
    return [draw_scene(prompt.content, np.random.default_rng((2026, i))) for i, prompt in enumerate(prompts)]


def overlap(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def compare(scene: Scene, found, tables: dict[str, Counter]) -> bool:
    """Count what each item was taken for; whether all of it was right and nothing was made up."""
    left, right = list(found), True
    matched = []
    for item in scene.items:
        near = max(left, key=lambda other: overlap(pixel_box(item, SIZE), other.box), default=None)
        if near is None or overlap(pixel_box(item, SIZE), near.box) < 0.3:
            near = None
        else:
            left.remove(near)
        matched.append(near)
        tables["shape"][item.shape, near.label if near else NOTHING] += 1
        tables["colour"][item.color, near.color if near else NOTHING] += 1
        right &= near is not None and (near.label, near.color) == (item.shape, item.color)
    for extra in left:
        tables["shape"][NOTHING, extra.label] += 1
        tables["colour"][NOTHING, extra.color] += 1
    if scene.content.relation:
        standing = relations(matched[0].box, matched[1].box) if all(matched) else frozenset()
        tables["relation"][scene.content.relation, " and ".join(sorted(standing)) or NOTHING] += 1
    return bool(right) and not left


def read(drawn: list[Scene], strength: float) -> dict:
    tables = {"shape": Counter(), "colour": Counter(), "relation": Counter()}
    right, seconds = Counter(), 0.0
    total = Counter(scene.content.tag for scene in drawn)
    for index, scene in enumerate(drawn):
        picture = render(scene, SIZE)
        if strength:
            picture = like_a_generators(picture, np.random.default_rng((7, index)), strength)
        since = time.process_time()
        found = [item for item in look(picture) if item.score > SURE]
        seconds += time.process_time() - since
        right[scene.content.tag] += compare(scene, found, tables)
    return {
        "scenes": len(drawn),
        "right": sum(right.values()) / len(drawn),
        "by_task": {tag: right[tag] / total[tag] for tag in TAGS},
        "seconds_per_1000": round(1000 * seconds / len(drawn), 2),
        "tables": {name: table(counts, name) for name, counts in tables.items()},
    }


def table(counts: Counter, name: str) -> dict[str, dict[str, int]]:
    known = {"shape": SHAPES, "colour": COLORS, "relation": RELATIONS}[name]
    columns = [*known, *sorted({seen for _, seen in counts} - set(known) - {NOTHING}), NOTHING]
    rows = [*known, *([NOTHING] if name != "relation" else [])]
    return {row: {column: counts[row, column] for column in columns} for row in rows}


def as_markdown(name: str, rows: dict[str, dict[str, int]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| {name} drawn | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {row} | " + " | ".join(f"{seen[column]:,}" for column in columns) + " |" for row, seen in rows.items()
    ]
    return "\n".join(lines)


def gallery(path: Path) -> None:
    """Two scenes per task, the second one corrupted, with captions and what the detector sees."""
    scale, columns = 3, 4
    prompts = [prompt for index, prompt in enumerate(suite("test", 72)) if index // 6 in (1, 5)]
    side = SIZE * scale
    sheet = Image.new("RGB", (columns * (side + 12) + 12, 3 * (side + 62) + 12), "white")
    pen = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(prompts):
        picture = render(draw_scene(prompt.content, np.random.default_rng((3, index))), SIZE)
        if index >= 6:
            picture = like_a_generators(picture, np.random.default_rng(index))
        x, y = 12 + index % columns * (side + 12), 12 + index // columns * (side + 62)
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (x, y))
        for item in look(picture):
            box = [x + item.box[0] * scale, y + item.box[1] * scale, x + item.box[2] * scale, y + item.box[3] * scale]
            pen.rectangle(box, outline="#ff00aa", width=2)
            label = f"{item.color} {item.label} {item.score:.2f}"
            pen.text((min(box[0], x + side - 6 * len(label)), max(box[1] - 12, y)), label, fill="#303030")
        for line, text in enumerate(wrapped(prompt.text, 32)):
            pen.text((x, y + side + 4 + 13 * line), text, fill="black")
    sheet.save(path, optimize=True)


def wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{word} "
    return lines


@click.command()
@click.option("--scenes", "count", default=10_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(count: int, out: Path) -> None:
    """Write OUT/pictures/shapes.png and OUT/results/detector.json; print the tables."""
    drawn = scenes(count)
    found = {"machine": machine()} | {kind: read(drawn, strength) for kind, strength in STRENGTHS.items()}
    for folder in ("pictures", "results"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "results" / "detector.json").write_text(json.dumps(found, indent=1) + "\n")
    gallery(out / "pictures" / "shapes.png")
    for kind in STRENGTHS:
        seen = found[kind]
        click.echo(
            f"\n{kind}: {seen['right']:.4f} of {seen['scenes']:,} scenes; {seen['seconds_per_1000']} s per 1,000"
        )
        click.echo(json.dumps(seen["by_task"]))
        for name, rows in seen["tables"].items():
            click.echo(f"\n{as_markdown(name, rows)}")


if __name__ == "__main__":
    main()
