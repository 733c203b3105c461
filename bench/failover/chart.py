"""Results as an SVG: a horizontal bar for each contender and fault on a logarithmic scale, for dark and light pages."""

import html
import json
import math
import pathlib

WIDTH, LEFT, RIGHT = 880, 205, 170
BAR, STEP, GAP, TOP = 13, 19, 30, 62
# A page of its own under everything: it stays readable where the page around it has the other colour.
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 } .fault { font-weight: 600 } .faint { fill: #57606a } .lost { fill: #b42318 }
.page { fill: #ffffff } .value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }
.grid { stroke: #d0d7de; stroke-width: 1 } .range { stroke: #24292f; stroke-width: 1.2 }
.matriarch { fill: #1a7f5a } .patroni { fill: #8c959f } .stolon { fill: #b08a4a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .faint { fill: #9198a1 } .lost { fill: #ff8a80 }
.page { fill: #0d1117 } .value { stroke: #0d1117 }
.grid { stroke: #3d444d } .range { stroke: #e6edf3 }
.matriarch { fill: #3fb68b } .patroni { fill: #6e7681 } .stolon { fill: #a5864f }
}
"""


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


class Scale:
    """Powers of ten that hold all values."""

    def __init__(self, values: list[float]):
        self.low = math.floor(math.log10(max(0.01, min(values))))
        self.high = max(self.low + 1, math.ceil(math.log10(max(values))))

    def x(self, value: float) -> float:
        share = (math.log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> list[float]:
        return [step * 10**power for power in range(self.low, self.high) for step in (1, 2, 5)] + [10**self.high]


def bar(row: dict, scale: Scale, y: float) -> list[str]:
    gap, middle = row["gap"], y + BAR / 2
    start, end = scale.x(10**scale.low), scale.x(gap["median"])
    words = ("≥ " if row["given_up"] else "") + seconds(gap["median"])
    if row.get("ratio") and row["product"] != "matriarch":
        words += f"  × {row['ratio']:.0f}" if row["ratio"] >= 10 else f"  × {row['ratio']:.1f}"
    name = html.escape(row["contender"].replace("-", " ").capitalize())
    rows = row["lost"] + row.get("inner_lost", 0)
    lost = f' <tspan class="lost">{rows} rows lost</tspan>' if rows else ""
    right = max(end, scale.x(gap["max"])) + 7
    return [
        f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{name}</text>',
        f'<rect class="{html.escape(row["product"])}" x="{start}" y="{y}" width="{max(1.5, end - start):.1f}" height="{BAR}" rx="2"/>',
        f'<line class="range" x1="{scale.x(gap["min"])}" x2="{scale.x(gap["max"])}" y1="{middle}" y2="{middle}"/>',
        f'<text class="value" x="{right}" y="{middle + 4}">{words}{lost}</text>',
    ]


def draw(files: list[dict]) -> str:
    """One chart of the results of one or several runs; those under other conditions are named by them."""
    rows = []
    for results in files:
        if any("product" not in row for row in results["results"]):
            raise SystemExit("error: these results are of an older form; measure again")
        members = results["members"]
        under = (("loaded", results["load"]), (f"{members} members", members != 3))
        named = [word for word, on in under if on]
        for row in results["results"]:
            words = [*(["PgBouncer"] if row.get("pooler", results["pooler"]) else []), *named]
            rows.append({**row, "fault": row["fault"] + (f" ({', '.join(words)})" if words else "")})
    if not rows:
        raise SystemExit("error: there are no results to draw")
    scale = Scale([row["gap"][key] for row in rows for key in ("min", "median", "max")])
    body, y = [], float(TOP)
    for fault in dict.fromkeys(row["fault"] for row in rows):
        body.append(f'<text class="fault" x="12" y="{y + 10}">{html.escape(fault)}</text>')
        y += 19
        for row in (row for row in rows if row["fault"] == fault):
            body += bar(row, scale, y)
            y += STEP
        y += GAP - STEP
    grid = []
    for tick in scale.ticks():
        x = scale.x(tick)
        grid.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{y}"/>')
        grid.append(f'<text class="faint" x="{x}" y="{TOP - 12}" text-anchor="middle">{tick:g}</text>')
    first, runs = files[0], [row["runs"] for row in rows]
    count = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)} to {max(runs)}"
    where = f"{first['postgres']}, {first['cores']} cores, {first['date']}"
    notes = f"median and range of {count}; log scale, shorter is better; {where}"
    size = f'width="{WIDTH}" height="{y + 26:.0f}" viewBox="0 0 {WIDTH} {y + 26:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>Seconds without a write when the primary is lost</title>",
            f"<style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%" rx="8"/>',
            '<text class="title" x="12" y="22">Seconds without a write when the primary is lost</text>',
            *grid,
            *body,
            f'<text class="faint" x="12" y="{y + 16}">{html.escape(notes)}</text>',
            "</svg>\n",
        ]
    )


def main(sources: list[pathlib.Path], target: pathlib.Path) -> None:
    target.write_text(draw([json.loads(source.read_text()) for source in sources]))
