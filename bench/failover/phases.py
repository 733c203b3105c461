"""Where the time of a planned switchover goes, read from Matriarch's own logs."""

import datetime
import pathlib
import re

# What the line of each phase contains, in the order in which they come.
MARKS = {
    "checkpointed": "Checkpoint done",
    "hold asked": 'why="switchover_hold"',
    "pooler paused": "paused the pooler",
    "work ended": "Settle done",
    "stopped": "StopFast done",
    "released": 'why="release"',
    "taken over": 'why="takeover"',
    "promoted": "Promote done",
    "pooler resumed": "resumed the pooler",
}
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\S+Z)\s+[A-Z]+ (.*)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def read(logs: list[pathlib.Path], since: float) -> dict[str, float]:
    """When (seconds since the epoch) each phase after `since` was reached first."""
    found: dict[str, float] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            matched = LINE.match(COLOUR.sub("", line))
            if not matched:
                continue
            at = datetime.datetime.fromisoformat(matched[1].replace("Z", "+00:00")).timestamp()
            for name, words in MARKS.items():
                if at >= since and words in matched[2]:
                    found[name] = min(at, found.get(name, at))
    return found


def relative(found: dict[str, float], last: float, first: float) -> dict[str, int]:
    """Milliseconds from the announcement; with the last commit before and the first one after."""
    zero = found.get("hold asked")
    if zero is None:
        return {}
    every = {"last commit": last, **found, "first commit": first}
    return dict(sorted(((name, round((at - zero) * 1000)) for name, at in every.items()), key=lambda pair: pair[1]))
