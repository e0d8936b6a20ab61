"""Draws what a cut link does to a training, from two real runs: `python -m tests.faults.picture [--out FILE]`.

In the first run nobody else could take the job: the trainer is frozen before its lease ends and goes on when the link
is back. In the second one another host takes it over: the first trainer is ended and never runs beside the other.
The default FILE is the picture in `README.md`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.factories.fault_fleet import Fleet, Pace
from tests.factories.fault_oracle import Stamp
from tests.factories.proxy import Exchange, Fault

OUT = Path(__file__).resolve().parents[2] / "docs" / "img" / "cut-link.svg"
PACE = Pace(lease_s=3.0, heartbeat_s=0.3, sweep_s=0.2)
WIDTH, LEFT, LANE, TOP = 860, 150, 34, 44
HOST_HEADER = "x-lab-host"


@dataclass(frozen=True)
class Bar:
    """A stretch of time in a lane, seconds from the start of the run."""

    from_s: float
    to_s: float
    kind: str
    text: str = ""


@dataclass(frozen=True)
class Lane:
    """One row of a panel: bars, and ticks (one for each step of a training)."""

    name: str
    bars: Sequence[Bar]
    ticks: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One run."""

    title: str
    lanes: Sequence[Lane]
    length_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="SVG file to write")
    out: Path = parser.parse_args().out
    panels = [
        observe("The link of lab-a is cut; no other host could take the job", ("lab-a",)),
        observe("The same with a second host: it takes the job over", ("lab-a", "lab-b")),
    ]
    out.write_text(svg(panels), encoding="utf-8")
    print(f"wrote {out}")


def observe(title: str, hosts: Sequence[str]) -> Panel:
    """One run with real processes: train, cut the link of lab-a for two lease lengths, mend it, wait for the end."""
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder), pace=PACE, hosts=("lab-a",)) as fleet:
        fleet.add("job", steps=70, step_s=0.1)
        begin_s = fleet.until_training("job").at_s
        for host in hosts[1:]:
            fleet.workers[host] = fleet._worker(host)
            fleet.workers[host].start()
        pause_until(fleet, begin_s + 1.5)
        cut_s = now_s()
        fleet.proxy.judge = lambda one: Fault("lose-request") if is_of(one, "lab-a") else None
        pause_until(fleet, cut_s + 2 * PACE.lease_s)
        mended_s = now_s()
        fleet.proxy.judge = lambda one: None
        fleet.until("job", "completed")
        end_s = now_s() + 0.4
        logs = {host: (Path(folder) / f"{host}.log").read_text() for host in hosts}
        job = fleet.client.job(fleet.id_of("job"))
        fleet.hosts = tuple(hosts)
        stamps = fleet.stamps()
    offset_s = time.time() - now_s()
    link = [Bar(0, cut_s - begin_s, "ok"), Bar(cut_s - begin_s, mended_s - begin_s, "cut", "cut")]
    lanes = [Lane("link of lab-a", [*link, Bar(mended_s - begin_s, end_s - begin_s, "ok")])]
    lanes += [trainer_lane(host, stamps, job, logs[host], begin_s, offset_s) for host in hosts]
    lanes.append(Lane("the job", list(states(job, begin_s + offset_s, end_s - begin_s))))
    return Panel(title, lanes, end_s - begin_s)


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pause_until(fleet: Fleet, at_s: float) -> None:
    fleet.wait(lambda: now_s() >= at_s, "the next act")


def is_of(exchange: Exchange, host: str) -> bool:
    return exchange.headers.get(HOST_HEADER) == host


def trainer_lane(
    host: str, stamps: Sequence[Stamp], job: dict[str, Any], log: str, begin_s: float, offset_s: float
) -> Lane:
    """Steps of the trainers of this host, and the times in which its guard held them frozen."""
    epochs = {row["epoch"] for row in job["attempts_log"] if row["host"] == host}
    mine = [stamp.at_s - begin_s for stamp in stamps if stamp.epoch in epochs and stamp.kind == "step"]
    return Lane(f"trainer on {host}", list(frozen(log, begin_s + offset_s)), mine)


def frozen(log: str, begin_wall_s: float) -> Iterable[Bar]:
    """From the worker's log: `job.frozen` until `job.thawed` or the end of the attempt."""
    since: float | None = None
    for line in log.splitlines():
        stamp = re.search(r"(\d{4}-\d\d-\d\dT[0-9:.]+)", line)
        at_s = (
            datetime.fromisoformat(stamp[1] + "+00:00").timestamp() - begin_wall_s
            if stamp is not None
            else None
        )
        if at_s is None:
            continue
        if "job.frozen" in line:
            since = at_s
        elif since is not None and ("job.thawed" in line or "job.lease_lost" in line):
            is_thawed = "job.thawed" in line
            yield Bar(since, at_s, "frozen", "frozen" if is_thawed else "frozen, then ended")
            since = None


def states(job: dict[str, Any], begin_wall_s: float, end_s: float) -> Iterable[Bar]:
    """The job's states as the receiver's audit trail tells them."""
    epochs = {row["epoch"]: row["host"] for row in job["attempts_log"]}
    moves = [(max(0.0, row["at"] - begin_wall_s), row) for row in job["audit"] if row["event"] != "reload"]
    for (at_s, row), after in zip(moves, [*moves[1:], (end_s, None)], strict=True):
        if after[0] - at_s < 0.02:
            continue
        state = row["to"]
        text = {"pending_lapsed": "lease lapsed: waits", "completed": "completed"}.get(state, "")
        yield Bar(at_s, after[0], state, text or f"held by {epochs.get(row['epoch'], '')}")


STYLE = """
    .bg { fill: #ffffff; } text { fill: #1f2328; font-size: 12px; } .title { font-weight: 600; font-size: 14px; }
    .axis { fill: #57606a; font-size: 11px; text-anchor: middle; } .grid { stroke: #d0d7de; stroke-width: 1; }
    .in { text-anchor: middle; font-size: 11px; } .name { text-anchor: end; }
    .ok { fill: #aceebb; } .cut { fill: #ffcecb; } .frozen { fill: #b6e3ff; } .running, .claimed { fill: #d8dee4; }
    .pending_lapsed, .pending { fill: #fae17d; } .completed { fill: #4ac26b; }
    .tick { stroke: #0969da; stroke-width: 1.6; }
    @media (prefers-color-scheme: dark) {
      .bg { fill: #0d1117; } text { fill: #e6edf3; } .axis { fill: #9198a1; } .grid { stroke: #30363d; }
      .ok { fill: #033a16; } .cut { fill: #67060c; } .frozen { fill: #0c2d6b; } .running, .claimed { fill: #3d444d; }
      .pending_lapsed, .pending { fill: #5a4600; } .completed { fill: #196c2e; } .tick { stroke: #58a6ff; }
    }
"""


def svg(panels: Sequence[Panel]) -> str:
    """The picture; each panel has its own seconds."""
    parts: list[str] = []
    y = 10
    for panel in panels:
        parts += draw(panel, y)
        y += TOP + LANE * len(panel.lanes) + 34
    about = "Two timelines. " + "; ".join(panel.title for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n"
        f"  <title>What a cut link does to a training</title>\n  <desc>{about}.</desc>\n"
        f'  <style>{STYLE}  </style>\n  <rect class="bg" width="{WIDTH}" height="{y}"/>\n'
        + "\n".join(f"  {part}" for part in parts)
        + "\n</svg>\n"
    )


def draw(panel: Panel, y: int) -> Iterable[str]:
    """The elements of one panel whose upper edge is at `y`."""
    scale = (WIDTH - LEFT - 20) / panel.length_s
    bottom = y + TOP + LANE * len(panel.lanes)
    yield f'<text class="title" x="12" y="{y + 20}">{panel.title}</text>'
    for second in range(0, int(panel.length_s) + 1, 2):
        x = LEFT + second * scale
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y + TOP - 8}" y2="{bottom}"/>'
        yield f'<text class="axis" x="{x:.1f}" y="{bottom + 16}">{second} s</text>'
    for row, lane in enumerate(panel.lanes):
        top = y + TOP + row * LANE
        yield f'<text class="name" x="{LEFT - 10}" y="{top + 16}">{lane.name}</text>'
        for bar in lane.bars:
            x, width = LEFT + bar.from_s * scale, max(1.0, (bar.to_s - bar.from_s) * scale)
            yield f'<rect class="{bar.kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="24" rx="3"/>'
            if bar.text and width > 6.2 * len(bar.text):
                yield f'<text class="in" x="{x + width / 2:.1f}" y="{top + 16}">{bar.text}</text>'
        for tick in lane.ticks:
            x = LEFT + tick * scale
            yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 3}" y2="{top + 21}"/>'


if __name__ == "__main__":
    main()
