"""Line numbers of tables and keys in a TOML file."""

import re

_HEADER = re.compile(r"^\s*\[\[?\s*([^\]\[]+?)\s*\]\]?\s*(#.*)?$")


_KEY = re.compile(r"""^\s*("[^"]+"|'[^']+'|[\w.-]+)\s*=""")


class Lines:
    """Line numbers of the tables and keys in a TOML file, which its parser doesn't report."""

    def __init__(self, text: str) -> None:
        self.places: dict[tuple[str, int, str], int] = {}  # (table, index among tables of that name, key) -> line
        table, which, seen = "", 0, dict[str, int]()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = _bare(header[1])
                which = seen.get(table, -1) + 1
                seen[table] = which
                self.places[table, which, ""] = number
            elif key := _KEY.match(line):
                self.places.setdefault((table, which, _bare(key[1])), number)

    def of(self, table: str, key: str = "", which: int = 0) -> int:
        """Line of a key; of its table if the key is missing; else the first line."""
        return self.places.get((table, which, key)) or self.places.get((table, which, "")) or self._top(table)

    def _top(self, key: str) -> int:
        return self.places.get(("", 0, key), 1)


def _bare(text: str) -> str:
    return text.strip().strip("\"'").strip()
