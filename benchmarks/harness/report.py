"""From rows to words: medians, ratios within a round, bars with pass or fail, a Markdown table and one JSON document."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.rows import Result, Row

Reader = Callable[[Result], float]
Measured = dict[str, Row]


def key(path: str) -> Reader:
    """A reader of `a.b.c` in a result."""

    def read(result: Result) -> float:
        value: Any = result
        for part in path.split("."):
            value = value[part] if value else 0
        return float(value or 0)

    return read


RPS, P50, P99 = key("rps"), key("latency_ms.p50"), key("latency_ms.p99")
FIRST50, FIRST99 = key("first_byte_ms.p50"), key("first_byte_ms.p99")
CPU, RSS, PSS = key("door_cpu_us_per_request"), key("memory_mb.rss"), key("memory_mb.pss")


def broken(result: Result) -> float:
    """Replies that were not what they should be."""
    return float(result["errors"] + result["non_200"] + result["lost_or_reordered"] + result["without_end"])


def median(row: Row, door: str, read: Reader) -> float | None:
    """The middle of the rounds; None where the door was not measured."""
    rounds = row.rounds.get(door)
    return statistics.median(read(r) for r in rounds) if rounds else None


def paired(row: Row, door: str, other: str, read: Reader, how: Callable[[float, float], float]) -> float | None:
    """The median over rounds of `how(door, other)` within each round; None where either is missing or the other is 0."""
    pairs = zip(row.rounds.get(door, ()), row.rounds.get(other, ()), strict=False)
    values = [(read(a), read(b)) for a, b in pairs]
    if not values or (how is operator.truediv and any(b == 0 for _, b in values)):
        return None
    return statistics.median(how(a, b) for a, b in values)


@dataclass(frozen=True)
class Bar:
    """A promise about one row: `value` compared with `limit` (at most, or at least)."""

    row: str
    text: str
    limit: float
    value: Callable[[Row, str], float | None]
    at_least: bool = False

    def judge(self, row: Row, door: str) -> dict[str, Any]:
        found = self.value(row, door)
        if found is None:
            verdict = "not measured"
        else:
            verdict = "pass" if (found >= self.limit if self.at_least else found <= self.limit) else "FAIL"
        return {
            "row": self.row,
            "door": door,
            "bar": f"{self.text} {'≥' if self.at_least else '≤'} {self.limit:g}",
            "value": None if found is None else round(found, 4),
            "verdict": verdict,
        }


def _ours(read: Reader) -> Callable[[Row, str], float | None]:
    return lambda row, door: median(row, door, read)


def _against(
    other: str, read: Reader, how: Callable[[float, float], float] = operator.truediv
) -> Callable[[Row, str], float | None]:
    return lambda row, door: paired(row, door, other, read, how)


OURS = ("sollol", "sollol compiled")

BARS = (
    Bar("latency", "added latency at one client, median, ms", 0.3, _against("direct", P50, operator.sub)),
    Bar("throughput", "requests per second ÷ vllm-router's", 0.5, _against("vllm-router", RPS), at_least=True),
    Bar("throughput", "requests per second ÷ litellm's", 50, _against("litellm", RPS), at_least=True),
    Bar("throughput", "replies that were wrong or failed", 0, _ours(broken)),
    Bar("native", "replies that were wrong or failed", 0, _ours(broken)),
    Bar("streams", "first byte p99 ÷ nginx's", 2, _against("nginx", FIRST99)),
    Bar("streams", "memory, MB (RSS)", 150, _ours(RSS)),
    Bar("streams", "streams lost, reordered, cut or failed", 0, _ours(lambda r: broken(r) + r["unfinished"])),
    Bar("native-streams", "first byte p99 ÷ nginx's", 2, _against("nginx", FIRST99)),
    Bar("native-streams", "streams lost, reordered, cut or failed", 0, _ours(lambda r: broken(r) + r["unfinished"])),
    Bar("unknown-slots", "requests per second ÷ direct", 0.97, _against("direct", RPS), at_least=True),
    Bar("import", "import, ms", 150, _ours(key("import_ms"))),
    Bar("import", "interpreter with sollol imported, MB", 40, _ours(key("import_mb"))),
    Bar("life", "`sollol up` to the first routed reply, s", 1.5, _ours(key("start_s"))),
    Bar("life", "idle gateway, MB (RSS)", 60, _ours(key("idle_rss_mb"))),
    Bar("life", "stop when idle, s", 0.5, _ours(key("stop_s"))),
    Bar("packages", "packages installed", 15, _ours(key("packages"))),
)


def judge(rows: Measured) -> list[dict[str, Any]]:
    """Every bar, for the gateway as `make install` makes it and, where that was measured, with its core compiled."""
    return [
        bar.judge(rows[bar.row], door)
        for bar in BARS
        if bar.row in rows
        for door in OURS
        if door == OURS[0] or rows[bar.row].rounds.get(door)
    ]


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(line)} |" for line in (head, rule, *lines)]


Column = tuple[str, Reader, int]
COST: list[Column] = [("RSS MB", RSS, 0), ("PSS MB", PSS, 0)]
LOAD: list[Column] = [
    ("req/s", RPS, 1),
    ("p50 ms", P50, 3),
    ("p99 ms", P99, 3),
    ("CPU µs/req", CPU, 1),
    *COST,
    ("wrong", broken, 0),
]
STREAMS: list[Column] = [
    ("first byte p50 ms", FIRST50, 2),
    ("p99 ms", FIRST99, 2),
    ("CPU %", lambda r: r["door_cpu"] * 100, 0),
    *COST,
    ("streams", key("done"), 0),
    ("wrong", broken, 0),
    ("unfinished", key("unfinished"), 0),
]


def _load_table(row: Row) -> list[str]:
    streaming = row.name.endswith("streams")
    columns = STREAMS if streaming else LOAD
    head = ["front door", *(c[0] for c in columns)]
    head += ["÷ direct", "÷ nginx", "÷ vllm-router", "÷ litellm"] + ([] if streaming else ["added p50 µs", "added p99 µs"])
    lines = []
    for door in row.rounds:
        cells = [door]
        for name, read, digits in columns:
            nothing = door == "direct" and name in {"CPU µs/req", "CPU %", "RSS MB", "PSS MB"}
            cells.append("–" if nothing else _number(median(row, door, read), digits))
        compared = FIRST99 if streaming else RPS
        cells += [
            _number(paired(row, door, other, compared, operator.truediv))
            for other in ("direct", "nginx", "vllm-router", "litellm")
        ]
        if not streaming:
            added = [paired(row, door, "direct", read, operator.sub) for read in (P50, P99)]
            cells += [_number(None if a is None else a * 1e3, 0) for a in added]
        lines.append(cells)
    return _table(head, lines)


def _life_table(row: Row) -> list[str]:
    keys = [k for k, v in row.rounds["sollol"][0].items() if isinstance(v, int | float)]
    return _table(["", *keys], [["sollol", *(_number(median(row, "sollol", key(k)), 3) for k in keys)]])


def _remarks(row: Row) -> list[str]:
    remarks = [f"- {door}: not measured: {why}" for door, why in row.absent.items()]
    for door, rounds in row.rounds.items():
        core = [r["generator_and_stub_core"] for r in rounds if r.get("limited_by_generator_or_stub")]
        if core:
            remarks.append(
                f"- {door}: generator or stub was the limit ({max(core):.0%} of its core): the true figure is higher"
            )
        others = max((r.get("others_on_door_core", 0.0) for r in rounds), default=0.0)
        if others > 0.05:
            remarks.append(f"- {door}: other programs took {others:.0%} of its core: read its CPU time, not its speed")
    for door, facts in row.facts.items():
        if "uvloop" in facts and facts["uvloop"] is not (door in OURS):
            remarks.append(f"- {door}: ran {'with' if facts['uvloop'] else 'without'} uvloop, against what the row says")
    return remarks


def markdown(row: Row) -> str:
    """One row as a heading, a table of medians and what has to be known about them."""
    table: list[str] = []
    if row.rounds:
        table = _life_table(row) if row.name in {"import", "life", "packages"} else _load_table(row)
    return "\n".join([f"### {row.name}: {row.title}", "", *table, *([""] if table else []), *_remarks(row), ""])


def verdicts(judged: Sequence[dict[str, Any]]) -> str:
    lines = [[j["row"], j["door"], j["bar"], _number(j["value"], 3), j["verdict"]] for j in judged]
    return "\n".join(["### Bars", "", *_table(["row", "front door", "bar", "measured", "verdict"], lines)])


def document(machine: dict[str, object], versions: dict[str, str], rounds: int, rows: Measured) -> dict[str, Any]:
    """Everything that was measured, round by round, for the results folder."""
    return {
        "machine": machine,
        "versions": versions,
        "rounds": rounds,
        "bars": judge(rows),
        "rows": {
            name: {"title": row.title, "absent": row.absent, "facts": row.facts, "rounds": row.rounds}
            for name, row in rows.items()
        },
    }
