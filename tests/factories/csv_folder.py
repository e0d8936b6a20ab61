"""Folders of CSV files, their descriptions, and the import as a user runs it."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cis490.episodes.arrays import from_payload
from cis490.episodes.dataset import iter_episodes
from cis490.episodes.format import EpisodeMeta
from collection.import_csv import main

EMPTY = io.StringIO()
"""Where a progress bar may write that nobody reads."""

DESCRIPTION: Mapping[str, str] = {
    "files": "",
    "time": 'column = "t"\nunit = "s"\n',
    "label": 'column = "what"\nsuspicious = ["attack"]\nbenign = ["normal"]\n',
    "missing": "",
    "episode": (
        'host = "lab-a"\nfamily = "web"\nseconds = 5\nshortest_s = 2\nscaling = "plain"\nlicence = "CC0-1.0"\n'
    ),
    "channels": 'column = "load"\nname = "sys.load"\nunit = "processes"\ndecimals = 2\n',
}
"""One description that fits `table()`, by table; a test replaces what it is about."""


def description(**tables: str) -> str:
    """The description with some of its tables replaced."""
    texts = {**DESCRIPTION, **tables}
    channels = "".join(f"[[channels]]\n{one}\n" for one in texts.pop("channels").split("\n\n"))
    return "".join(f"[{name}]\n{text}\n" for name, text in texts.items() if text) + channels


def table(seconds: float = 10, hz: int = 10, attack_from_s: float = 5, start_s: float = 0) -> list[str]:
    """Lines of a CSV file: `t,load,what`, with the attack from some second on."""
    lines = ["t,load,what"]
    for n in range(int(seconds * hz)):
        t = n / hz
        what = "attack" if t >= attack_from_s else "normal"
        lines.append(f"{start_s + t:.3f},{(n * 37 % 101) / 4:.2f},{what}")
    return lines


def changed(lines: list[str], at: Mapping[int, str]) -> str:
    """The lines as text, some replaced; lines count from 1, as in messages."""
    return "".join(f"{at.get(number, line)}\n" for number, line in enumerate(lines, 1))


def lab_files(per_host: int = 12) -> dict[str, str]:
    """Files of three hosts; every second one leaks data from its fourth second on. No random numbers: the worked
    example in docs/data.md shows what comes of them."""
    return {
        f"{host}/{n:02d}.csv": _lab_file(n + per_host * hosts, "normal" if n % 2 else "leak")
        for hosts, host in enumerate(("ada", "bob", "eve"))
        for n in range(per_host)
    }


def _lab_file(seed: int, what: str) -> str:
    rows = ["time,cpu_s,sent_bytes,what"]
    cpu, sent = 1000 * seed, 50_000 * seed
    for n in range(150):
        active = what != "normal" and n >= 40
        drawn = (n * n * 7919 + (seed + 3) * 104_729 + n * seed * 31) % 97
        cpu += drawn % 7
        sent += (1500 + 10 * drawn) * (5 if active else 1)
        stamp = f"2026-01-{1 + seed % 10:02d} {10 + seed // 10}:00:{n // 10:02d}.{n % 10}00"
        rows.append(f"{stamp},{cpu / 100:.2f},{sent},{what if active else 'normal'}")
    return "\n".join(rows) + "\n"


@dataclass
class Done:
    """What an import left: exit code, what it said, and the folder."""

    code: int
    out: str
    err: str
    folder: Path

    def episodes(self) -> list[tuple[EpisodeMeta, NDArray[np.int64], NDArray[np.int64]]]:
        """(meta data, t_us (n,), values (n, channels)) of every episode, in the order of its name."""
        return [(meta, *from_payload(meta, payload)) for _, meta, payload in iter_episodes(self.folder)]

    @property
    def dataset_id(self) -> str:
        """As the summary has it."""
        return next(line.split()[1] for line in self.out.splitlines() if line.startswith("dataset_id"))


class Importer:
    """Runs imports below one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def __call__(
        self, files: Mapping[str, str | bytes | list[str]], rules: str = "", out: str = "out", *more: str
    ) -> Done:
        """Write the files and import them with a description (default: `description()`)."""
        source = self.folder / ("csv-" + out.replace("/", "-"))
        source.mkdir(exist_ok=True)
        for name, content in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = changed(content, {}) if isinstance(content, list) else content
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        described = self.folder / "import.toml"
        described.write_text(rules or description(), encoding="utf-8")
        arguments = [str(source), "--description", str(described), "--out", str(self.folder / out), *more]
        self._capsys.readouterr()
        code = main(arguments)
        said = self._capsys.readouterr()
        return Done(code, said.out, said.err, self.folder / out)

    def left_behind(self) -> list[str]:
        """Names beside the sources and the description: what an import made."""
        names = (path.name for path in self.folder.iterdir())
        return sorted(name for name in names if name != "import.toml" and not name.startswith("csv-"))
