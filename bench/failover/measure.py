"""One fault at a time: the client at work, the fault, the way back, the reckoning."""

import os
import pathlib
import random
import statistics
import time

import machine
import phases
from clients import Ledger, Load, Pgbench
from contender import Contender
from faults import Fault

# How long a cluster may take to start, or to take its victim back (seconds).
PATIENCE = 240


def one_run(contender: Contender, kind: type[Fault], program: pathlib.Path, book: pathlib.Path, load: int = 0) -> dict:
    """One fault, with so many pgbench clients as load; the figures of the run."""
    machine.wait_until("a leader that everybody streams from", contender.healthy, PATIENCE, 0.5)
    pressure = Load(Pgbench(contender.bins, contender.dsn()), load) if load else None
    fault = kind(contender, contender.leader(), program)
    try:
        fault.prepare()
        return strike(contender, fault, Ledger(program, contender.dsn(), book, 1.0 if load else fault.steady))
    finally:
        fault.end()
        if pressure:
            pressure.end()


def strike(contender: Contender, fault: Fault, ledger: Ledger) -> dict:
    before, timeline = fault.leader, contender.timeline(fault.leader)
    try:
        ledger.wait_steady(2.0, 60.0)
        time.sleep(random.uniform(0, contender.period))
        struck, begun, clock = ledger.now, time.monotonic(), time.time()
        try:
            fault.strike()
            # The router may serve the old primary for a moment yet: let the fault begin before asking whether it is over.
            time.sleep(max(1.0, begun + fault.lasts - time.monotonic()))
            back = bool(fault.lasts) or ledger.wait_steady(2.0, fault.limit)
        finally:
            fault.heal()
        # What a healed member does to the others belongs to the fault.
        time.sleep(3.0)
        back &= ledger.wait_steady(1.0, fault.limit)
    finally:
        summary = ledger.finish()
    machine.wait_until("the victim back as a replica", contender.healthy, PATIENCE, 0.5)
    after = contender.leader()
    more = fault.finish(after)
    verdict = ledger.verify(contender.direct(after))
    return {
        "fault": fault.name,
        "gap": round(summary["gap"]["seconds"], 3),
        "gap_after_strike": round(summary["gap"]["from"] - struck, 3),
        "back": back,
        "moved": before != after,
        "promoted": contender.timeline(after) != timeline,
        "errors": summary["connect_errors"] + summary["refused"] + summary["unknown"],
        "connect_errors": summary["connect_errors"],
        "statement_errors": summary["refused"] + summary["unknown"],
        "messages": summary["errors"],
        "acknowledged": summary["acknowledged"],
        "lost": len(verdict["lost"]),
        "duplicates": len(verdict["duplicates"]),
        "load_average": round(os.getloadavg()[0], 1),
        **timeline_of(contender, clock, summary["started_at"] + summary["gap"]["from"], summary["gap"]["seconds"]),
        **more,
    }


def timeline_of(contender: Contender, struck: float, last: float, gap: float) -> dict:
    """The steps of a planned move in milliseconds; nothing for other faults and for contenders that do not tell."""
    steps = phases.relative(contender.phases(struck), last, last + gap)
    return {"phases": steps} if steps else {}


def spread(values: list) -> dict:
    return {"median": round(statistics.median(values), 3), "min": min(values), "max": max(values)}


def condense(runs: list[dict]) -> dict:
    """Median, min and max of one contender's runs of one fault, and sums of what must not happen."""
    figures = {
        "fault": runs[0]["fault"],
        "runs": len(runs),
        "gap": spread([run["gap"] for run in runs]),
        "errors": spread([run["errors"] for run in runs]),
        **{name: sum(run[name] for run in runs) for name in ("lost", "acknowledged", "moved", "promoted")},
        "given_up": sum(not run["back"] for run in runs),
    }
    if "session_errors" in runs[0]:
        figures["session_errors"] = spread([run["session_errors"] for run in runs])
        figures["sessions"] = runs[0]["sessions"]
    if "inner_lost" in runs[0]:
        figures["inner_lost"] = sum(run["inner_lost"] for run in runs)
        figures["inner_wrote_on"] = spread([run["inner_wrote_on"] for run in runs])
    return figures
