"""Runs docs/tutorial.md block by block as a reader would, and writes fresh output into it.

python -m scripts.tutorial     (about eight minutes on two cores)

In the page, a line `$ COMMAND` of a console block is run by bash, and what is below it is its output. `...` stands for
lines that are left out; below a command without output, everything is written, to be trimmed by hand. `^C` is pressed
when the line above it has appeared. Blocks of toml and python are files, named by their first line. Comments above a
block: `<!-- exit 5 -->` is how its last command ends, `<!-- not run -->` leaves it alone.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
LEFT_OUT, PRESSED = "...", "^C"

_BLOCK = re.compile(r"^(?:<!-- (?P<about>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?"
_PLAIN = (
    (re.compile(r"-[0-9a-f]{8}\b"), "-KEY"),
    (re.compile(_NUMBER), "#"),
    (re.compile(r"#(?: (?:[kMGT]?B|ms|s|min|h))?(?: \?)?(?!\w)"), "#"),
    (re.compile(r"#(?:[-, ]+#)+"), "#"),
    (re.compile(r"\s+"), " "),
)
_PROGRESS = re.compile(r"[^:]+: #% of #")


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    kind: str
    about: str  # the comment above it
    text: str
    start: int  # of the text, in the page

    @property
    def exit(self) -> int:
        """How its last command ends."""
        return int(self.about.removeprefix("exit ")) if self.about.startswith("exit ") else 0

    def commands(self) -> list[tuple[str, list[str]]]:
        """(command, lines below it) of a console block."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
        return found


@dataclass(frozen=True)
class Ran:
    """A command of the page, and what it did."""

    command: str
    shown: list[str]
    output: list[str]
    exit: int
    expected_exit: int


def blocks(page: str) -> Iterator[Block]:
    """All fenced blocks in order."""
    for match in _BLOCK.finditer(page):
        yield Block(match["kind"], match["about"] or "", match["text"], match.start("text"))


def plain(line: str) -> str:
    """The line without what differs between two runs: numbers, units, keys, widths of columns."""
    for pattern, replacement in _PLAIN:
        line = pattern.sub(replacement, line)
    return line.strip()


def agreed(shown: list[str], output: list[str]) -> list[str]:
    """The shown lines as the output has them now; ValueError names the first difference."""
    found, at, gap = [], 0, False
    for line in shown:
        if line in {LEFT_OUT, PRESSED}:
            gap |= line == LEFT_OUT
            found.append(line)
            continue
        while at < len(output) and plain(line) != plain(output[at]) and (gap or _optional(output[at])):
            at += 1
        if at == len(output) or plain(line) != plain(output[at]):
            there = output[at] if at < len(output) else "its end"
            raise ValueError(f"the page says {line!r}, the output {there!r}")
        found.append(output[at])
        at, gap = at + 1, False
    rest = [line for line in output[at:] if not _optional(line)]
    if rest and not gap:
        raise ValueError(f"the page ends, the output goes on with {rest[0]!r}")
    return found


def _optional(line: str) -> bool:
    """Whether it depends on the machine's speed if it is printed: progress, and empty lines."""
    return not line or bool(_PROGRESS.match(plain(line)))


def run_page(page: str, folder: Path) -> Iterator[tuple[Block, list[Ran]]]:
    """Write each file of the page and run each console block, in order, in a folder."""
    for block in blocks(page):
        if block.about == "not run":
            continue
        if block.kind == "console":
            ran = []
            for command, shown in block.commands():
                output, code = _shell(command, shown, folder)
                ran.append(Ran(command, shown, output, code, 0))
            yield block, [*ran[:-1], Ran(**{**vars(ran[-1]), "expected_exit": block.exit})]
        else:
            name = block.text.partition("\n")[0].removeprefix("# ")
            (folder / name).write_text(block.text, encoding="utf-8")


def _shell(command: str, shown: list[str], folder: Path) -> tuple[list[str], int]:
    """(lines of output, exit code) of a command; Ctrl-C is pressed where the page shows it."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / ".cache"),
    }
    moment = plain(shown[shown.index(PRESSED) - 1]) if PRESSED in shown else None
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if moment and plain(lines[-1]) == moment:
            os.killpg(process.pid, signal.SIGINT)
            moment = None
    return lines, process.wait()


def refreshed(page: str, folder: Path) -> str:
    """The page with what its commands print now."""
    fresh = page
    for block, ran in run_page(page, folder):
        text = ""
        for one in ran:
            sys.stderr.write(f"{one.command}: exit {one.exit}\n")
            if one.exit != one.expected_exit:
                raise SystemExit("\n".join(one.output))
            try:
                lines = agreed(one.shown, one.output) if one.shown else one.output
            except ValueError as error:
                raise SystemExit("\n".join([*one.output, str(error)])) from error
            text += "\n".join([f"$ {one.command}", *lines]) + "\n"
        at = block.start - len(page)  # from the end, as the front may have changed its length
        fresh = fresh[:at] + text + fresh[at + len(block.text) :]
    return fresh


def main() -> int:
    """Rewrite the page."""
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8"), Path(folder).resolve()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
