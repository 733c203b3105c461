"""The figures of a run: kept after each fault, with ratios between contenders, as JSON and as a table."""

import json
import os
import pathlib
import time

from measure import condense


class Results:
    """Every run so far and under which conditions; written anew after each, so that an interrupted run leaves its figures."""

    def __init__(self, conditions: dict, file: pathlib.Path | None):
        self.conditions, self.file, self.runs, self.skipped = conditions, file, [], []
        self.begun = time.monotonic()

    def minutes(self) -> float:
        return (time.monotonic() - self.begun) / 60

    def add(self, run: dict) -> None:
        self.runs.append(run)
        self.write()

    def skip(self, what: str, why: str) -> None:
        one = {"what": what, "why": why}
        if one not in self.skipped:
            self.skipped.append(one)
        self.write()

    def rows(self) -> list[dict]:
        """A row for each contender and fault, with the ratio to ours of the same mode and fault (else to our first)."""
        groups: dict[tuple, list[dict]] = {}
        for run in self.runs:
            groups.setdefault((run["contender"], run["fault"], run["pooler"]), []).append(run)
        same = ("contender", "product", "mode", "settings", "store", "pooler", "fault_key")
        rows = [{**{key: runs[0][key] for key in same}, **condense(runs)} for runs in groups.values()]
        for row in rows:
            kind = (row["fault"], row["pooler"])
            ours = [other for other in rows if other["product"] == "matriarch" and (other["fault"], other["pooler"]) == kind]
            base = next((other for other in ours if other["mode"] == row["mode"]), ours[0] if ours else None)
            if base and base["gap"]["median"] > 0:
                row["ratio"] = round(row["gap"]["median"] / base["gap"]["median"], 2)
                row["ratio_to"] = base["contender"]
        return rows

    def all(self) -> dict:
        return {**self.conditions, "skipped": self.skipped, "results": self.rows(), "runs": self.runs}

    def write(self) -> None:
        if not self.file:
            return
        text = json.dumps(self.all(), indent=1)
        beside = self.file.with_name(f".{self.file.name}.new")
        beside.write_text(text)
        os.replace(beside, self.file)

    def table(self) -> str:
        head = (
            f"{'contender':<30}{'fault':<21}{'runs':>5}{'gap median':>12}{'min':>9}{'max':>9}{'ratio':>8}"
            f"{'errors':>8}{'(max)':>7}{'lost':>6}{'of':>8}{'promoted':>10}  notes"
        )
        lines, order = [head, "-" * len(head)], {(run["pooler"], run["fault"]): None for run in self.runs}
        for row in sorted(self.rows(), key=lambda row: list(order).index((row["pooler"], row["fault"]))):
            gap, errors = row["gap"], row["errors"]
            ratio = f"{row['ratio']:.1f}" if "ratio" in row else "-"
            notes = ["PgBouncer in front"] if row["pooler"] else []
            notes += [f"no writes within the limit: {row['given_up']}"] if row["given_up"] else []
            if "sessions" in row:
                ended = row["session_errors"]
                notes.append(f"errors of {row['sessions']} sessions: {ended['median']:.0f} (max {ended['max']})")
            if "inner_lost" in row:
                notes.append(f"cut off it wrote on for {row['inner_wrote_on']['median']:.1f} s, {row['inner_lost']} rows of that lost")
            lines.append(
                f"{row['contender']:<30}{row['fault']:<21}{row['runs']:>5}"
                f"{gap['median']:>10.3f} s{gap['min']:>9.3f}{gap['max']:>9.3f}{ratio:>8}"
                f"{errors['median']:>8.0f}{errors['max']:>7}{row['lost']:>6}{row['acknowledged']:>8}{row['promoted']:>10}  {'; '.join(notes)}"
            )
        return "\n".join([*lines, *(f"skipped: {one['what']}: {one['why']}" for one in self.skipped)])
