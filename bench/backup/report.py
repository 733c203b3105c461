"""What was measured, as lines while it goes on, as a table at the end, and as JSON."""

import datetime
import json
import os
import pathlib
import statistics

# What our rate divided by pgBackRest's is to be, in the median of the rounds.
GOALS = {
    ("full", "directory", "zst"): 1.6,
    ("full", "directory", "lz4"): 1.8,
    ("full", "s3", "zst"): 1.5,
    ("full", "s3", "lz4"): 1.5,
    ("restore", "directory", "zst"): 1.6,
    ("restore", "directory", "lz4"): 1.6,
    ("restore", "s3", "zst"): 2.0,
    ("restore", "s3", "lz4"): 2.0,
    ("drain", "directory", "zst"): 1.3,
    ("drain", "directory", "lz4"): 1.3,
    ("drain", "s3", "zst"): 1.5,
    ("drain", "s3", "lz4"): 1.5,
}
PEER, OURS = "pgbackrest", "matriarch"


class Results:
    def __init__(self, file: pathlib.Path | None, size_mib: float, versions: dict[str, str], rows: list[dict] | None = None):
        self.file, self.size = file, size_mib
        self.rows = rows or []
        self.about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "size_mib": size_mib, "versions": versions}

    def add(self, place: str, codec: str, work: str, number: int, name: str, figures: dict) -> None:
        self.rows.append({"place": place, "codec": codec, "work": work, "round": number, "contender": name, "figures": figures, "load": os.getloadavg()[0]})
        print(f"{place:9} {codec}  {work:11} {number + 1}: {name:10} {self.line(work, figures)}", flush=True)
        if self.file:
            self.file.write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")

    def line(self, work: str, figures: dict) -> str:
        if work == "push":
            return f"{figures['median_ms']:7.2f} ms"
        if work == "load":
            return f"{figures['share']:7.2f} of {figures['alone']:.0f} transactions a second, {figures['backups']} backups"
        if work == "drain":
            return f"{figures['segments'] / figures['seconds']:7.1f} segments/s"
        more = f", accepts connections {figures['start_seconds']:.2f} s later" if work == "restore" else f", {figures['stored_mib']:.0f} MiB stored"
        return f"{self.size / figures['seconds']:7.1f} MiB/s, {figures['cpu'] * 1024 / self.size:6.2f} CPU s/GiB, {figures['peak_mib']:6.0f} MiB{more}"

    def series(self, place: str, codec: str, work: str, name: str) -> dict[int, dict]:
        fits = lambda row: (row["place"], row["codec"], row["work"], row["contender"]) == (place, codec, work, name)  # noqa: E731
        return {row["round"]: row["figures"] for row in self.rows if fits(row)}

    def pieces(self) -> dict:
        """Place, codec and work of everything that was measured, in order."""
        return dict.fromkeys((row["place"], row["codec"], row["work"]) for row in self.rows)

    def figures(self, place: str, codec: str, work: str) -> dict:
        """The median of the rounds of each contender, and of our ratios to pgBackRest within them."""
        series = {name: self.series(place, codec, work, name) for name in self.about["versions"]}
        ours, peer = (series.get(name, {}) for name in (OURS, PEER))
        both = sorted(ours.keys() & peer.keys())
        ratio = statistics.median(rate(work, ours[n]) / rate(work, peer[n]) for n in both) if both else None
        cpu = statistics.median(ours[n]["cpu"] / peer[n]["cpu"] for n in both) if both and "cpu" in ours[both[0]] else None
        return {**{name: self.median(work, rounds) if rounds else "" for name, rounds in series.items()}, "ratio": ratio, "cpu": cpu}

    def show(self) -> None:
        names = list(self.about["versions"])
        print(f"\n{'':25}{''.join(f'{name:>24}' for name in names)}{'ratio':>8}{'goal':>6}{'CPU':>7}")
        for place, codec, work in self.pieces():
            figures = self.figures(place, codec, work)
            shown = [f"{value:.2f}" if value else "" for value in (figures["ratio"], GOALS.get((work, place, codec)), figures["cpu"])]
            print(f"{place:10}{codec:4}{work:11}{''.join(f'{figures[name]:>24}' for name in names)}{shown[0]:>8}{shown[1]:>6}{shown[2]:>7}")

    def median(self, work: str, rounds: dict[int, dict]) -> str:
        middle = statistics.median(rate(work, figures) for figures in rounds.values())
        if work == "push":
            return f"{1000 / middle:.2f} ms"
        if work == "load":
            return f"{middle:.2f} of its rate"
        if work == "drain":
            return f"{middle:.1f} segments/s"
        peak = max(figures["peak_mib"] for figures in rounds.values())
        return f"{self.size * middle:.0f} MiB/s, {peak:.0f} MiB"


def rate(work: str, figures: dict) -> float:
    """More is better."""
    if work == "push":
        return 1000 / figures["median_ms"]
    if work == "load":
        return figures["share"]
    if work == "drain":
        return figures["segments"] / figures["seconds"]
    return 1 / figures["seconds"]
