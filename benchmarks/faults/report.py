"""The table as text, and the document of figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.stage import Found
from benchmarks.faults.table import ROWS, Row

_HEAD = "| fault | in flight | requests | answered | resumed | clear errors | lost | wrong | measured | bar | verdict |"
HEADER = f"{_HEAD}\n|---|---:|---:|---:|---:|---:|---:|---:|---|---|---|"
BEGIN = "<!-- the table: written by `make faults` -->"
END = "<!-- end of the table -->"


@dataclass(frozen=True)
class Played:
    """A row that was played with so many requests in flight, in `seconds`."""

    row: Row
    count: int
    found: Found
    seconds: float

    @property
    def verdict(self) -> str:
        if self.found.skipped:
            return "skipped"
        return "pass" if self.found.passed else "FAIL"


def line(played: Played) -> str:
    """One line of the table."""
    row, found = played.row, played.found
    if found.skipped:
        figures = ["–"] * 6 + [f"needs {found.skipped}"]
    else:
        counts = (found.requests, found.answered, found.resumed, found.errors, found.lost, found.wrong)
        figures = [f"{count:,}" for count in counts] + [found.headline]
    in_flight = f"{played.count}" if played.count else "–"
    return f"| {' | '.join([row.what, in_flight, *figures, row.bar, played.verdict])} |"


def troubles(played: Played) -> list[str]:
    """What did not hold, and some of the replies that were no answers."""
    found = played.found
    return [f"  {played.row.name}: {words}" for words in found.broken] + [f"    {reason}" for reason in found.reasons]


def document(all_played: Sequence[Played], about: dict[str, Any]) -> dict[str, Any]:
    """What is written to a file."""
    rows = [
        {"name": one.row.name, "in_flight": one.count, "seconds": round(one.seconds, 1), "verdict": one.verdict}
        | dataclasses.asdict(one.found)
        for one in all_played
    ]
    return {"about": about, "rows": rows}


def read(file: Path) -> dict[tuple[str, int], Played]:
    """What was written to a file, by name of the row and number of requests; rows that are no more are left out."""
    fields = [field.name for field in dataclasses.fields(Found)]
    made = {}
    for one in json.loads(file.read_text())["rows"]:
        if one["name"] in ROWS:
            found = Found(**{name: one[name] for name in fields})
            made[one["name"], one["in_flight"]] = Played(ROWS[one["name"]], one["in_flight"], found, one["seconds"])
    return made


def into(page: str, all_played: Sequence[Played], about: dict[str, Any]) -> str:
    """The page with a new table between its marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError("the page has no place for the table")
    said = f"Measured on {about['date']} on a machine with {about['cores']} cores that also ran the nodes and the clients."
    if about.get("again"):
        said += f" Played again after the whole run: {', '.join(about['again'])}."
    lines = [HEADER, *(line(played) for played in all_played)]
    return f"{before}{BEGIN}\n{said}\n\n" + "\n".join(lines) + f"\n{END}{after}"
