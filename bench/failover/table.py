"""The table that the product is held to: each fault with its goal, our figures and the peers' beside them."""

import copy
import dataclasses
import json
import pathlib
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Row:
    fault: str
    title: str
    # Longest write gap (seconds), in the median of the runs; none: only errors count.
    gap: float | None = None
    # No client may see an error, in no run. For busy sessions those of pgbench.
    clean: bool = False
    # Nobody may be promoted.
    stays: bool = False
    pooler: bool = False
    # Keeps both cores busy by itself: its goal is twice that of a quiet machine already.
    saturates: bool = False
    # How often at most, ours and the peers': some faults last for a minute, and some peers as long.
    runs: tuple[int, int] = (10**6, 10**6)
    # Of the peers' settings.
    settings: tuple[str, ...] = ("default", "tight")


ROWS = (
    Row("postmaster", "postmaster killed", 0.5),
    Row("node", "node killed", 0.8),
    Row("stop", "node frozen", 1.5),
    Row("partition", "node cut off from everyone", 1.5),
    Row("agent", "agent killed and started again", clean=True, stays=True, settings=("default",)),
    Row("upgrade", "agent upgraded", clean=True, stays=True, settings=("default",)),
    Row("store", "store down for 60 s", clean=True, stays=True, runs=(10, 1), settings=("default",)),
    Row("switchover", "planned switchover, plain sessions", 0.3),
    Row("switchover", "planned switchover, PgBouncer in front", 0.2, pooler=True, settings=("default",)),
    Row("switchover-sessions", "the same, 50 pgbench sessions (200 transactions a second)", 0.2, clean=True, pooler=True, settings=("default",)),
    Row("switchover-busy", "the same, 50 pgbench sessions (both cores busy)", 0.4, clean=True, pooler=True, saturates=True, settings=("default",)),
    Row("volume", "data volume frozen", 5.0, runs=(10, 1), settings=("default",)),
)
# What needs a cluster of its own kind: a pooler in front, a volume for each member.
KINDS = (lambda row: not row.pooler and row.fault != "volume", lambda row: row.pooler, lambda row: row.fault == "volume")


def courses(options) -> Iterator[tuple[object, str | None, dict[str, int]]]:
    """The pieces of the run: options, the product's settings (none: its usual ones), and how often each fault strikes."""
    for kind in KINDS:
        rows = [row for row in ROWS if kind(row) and row.fault in options.faults]
        for product in options.contenders:
            ours = product == "matriarch"
            for setting in [None] if ours else ["default", "tight"]:
                fitting = [row for row in rows if ours or setting in row.settings]
                if not fitting:
                    continue
                piece = copy.copy(options)
                piece.contenders, piece.settings = [product], [setting or "default"]
                piece.faults, piece.pooler = [row.fault for row in fitting], fitting[0].pooler
                wanted = options.runs if ours else options.peer_runs
                yield piece, setting, {row.fault: min(wanted, row.runs[0 if ours else 1]) for row in fitting}


def goal(row: Row) -> str:
    words = [f"≤ {row.gap:.2g} s"] if row.gap is not None else []
    words += ["0 client errors" if row.gap is not None else "0 failed writes"] if row.clean else []
    return ", ".join([*words, *(["nobody promoted"] if row.stays else []), "0 lost"])


def errors(figures: dict) -> dict:
    return figures.get("session_errors") or figures["errors"]


def lost(figures: dict) -> int:
    return figures["lost"] + figures.get("inner_lost", 0)


def met(row: Row, ours: dict) -> bool:
    in_time = row.gap is None or ours["gap"]["median"] <= row.gap
    clean = not row.clean or errors(ours)["max"] == 0
    return in_time and clean and lost(ours) == 0 and not ours["given_up"] and not (row.stays and ours["promoted"])


def cell(row: Row, figures: dict | None) -> str:
    if figures is None:
        return "—"
    gap = figures["gap"]
    digits = 2 if gap["median"] < 10 else 0
    spread = f" ({gap['min']:.{digits}f}–{gap['max']:.{digits}f})" if figures["runs"] > 1 else ""
    words = [("≥ " if figures["given_up"] else "") + f"{gap['median']:.{digits}f} s{spread}"]
    if row.clean:
        words.append(f"{errors(figures)['max']} errors")
    if row.stays and figures["promoted"]:
        words.append(f"promoted in {figures['promoted']} of {figures['runs']}")
    words.append(f"{lost(figures)} lost")
    return ", ".join(words)


def lines(results: dict) -> list[str]:
    """The table as Markdown, from the file of --json."""
    found = {(one["contender"], one["fault_key"], one["pooler"]): one for one in results["results"]}
    peers = list(dict.fromkeys(one["contender"] for one in results["results"] if one["product"] != "matriarch"))
    ours = next((one["contender"] for one in results["results"] if one["product"] == "matriarch"), "matriarch-sync")
    names = [peer.removesuffix("-sync").replace("-", ", ").capitalize() for peer in peers]
    # On a saturated machine gaps may be twice as long.
    doubled = [row for row in ROWS if row.gap and results["load"] and not row.saturates]
    rows = [dataclasses.replace(row, gap=row.gap * 2) if row in doubled else row for row in ROWS]
    head = ["fault", "goal", "Matriarch", "met", *names]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        own = found.get((ours, row.fault, row.pooler))
        others = [found.get((peer, row.fault, row.pooler)) for peer in peers]
        if own or any(others):
            verdict = "" if own is None else "yes" if met(row, own) else "**no**"
            cells = [row.title, goal(row), cell(row, own), verdict, *(cell(row, other) for other in others)]
            table.append(f"| {' | '.join(cells)} |")
    return table


def note(results: dict) -> str:
    """Under which conditions the table was measured, in a sentence."""
    runs = [one["runs"] for one in results["results"] if one["product"] == "matriarch"] or [0]
    theirs = [one["runs"] for one in results["results"] if one["product"] != "matriarch"]
    beside = f" and {max(theirs)} of each peer" if theirs else ""
    load = f"pgbench with {results['load']} clients beside it" if results["load"] else "quiet"
    versions = "; ".join(dict.fromkeys(run["version"] for run in results["runs"]))
    return (
        f"Write gap, median (min–max) of {max(runs)} runs of ours{beside}; {results['date']}, {results['cores']} cores ({load}), "
        f"{results['postgres']}, {results['members']} members, members on {results['hosts']}; {versions}."
    )


def show(file: pathlib.Path) -> str:
    results = json.loads(file.read_text())
    return "\n".join([*lines(results), "", note(results)])
