"""How fast a folder of CSV files becomes a data set, and how much memory that takes.

    python -m benchmarks.import_csv [--rows 1000000] [--files 4] [--channels 6] [--folder DIR]

Writes synthetic telemetry (100 rows a second, time, a label column, numbers with three decimals), then imports
it in a process of its own, four times: plainly, with ISO 8601 times, with a decimal comma, and with quotes
around the labels. Prints one JSON line for each: seconds and rows per second by the clock, which other work on
the machine slows down, seconds of processor time, and the peak of resident memory, Python and numpy included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HZ = 100
CASES = ("plain", "iso8601", "decimal comma", "quoted")
_DESCRIPTION = """
[files]
delimiter = "{delimiter}"
decimal = "{decimal}"
[time]
column = "time"
unit = "{unit}"
[label]
column = "label"
suspicious = ["attack"]
benign = ["normal"]
[episode]
host = "lab-a"
family = "synthetic"
seconds = 30
scaling = "plain"
licence = "CC0-1.0"
"""
_CHANNEL = '[[channels]]\ncolumn = "c{n}"\nname = "sys.c{n}"\nunit = "units"\ndecimals = 3\n'


def write_files(folder: Path, case: str, rows: int, files: int, channels: int) -> int:
    """Files of one case; returns their size in bytes."""
    folder.mkdir()
    size = 0
    for number in range(files):
        path = folder / f"{number}.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            out.writelines(_lines(case, number, rows // files, channels))
        size += path.stat().st_size
    return size


def _lines(case: str, number: int, rows: int, channels: int) -> Iterator[str]:
    delimiter = ";" if case == "decimal comma" else ","
    quote = '"' if case == "quoted" else ""
    yield delimiter.join(["time", *(f"c{n}" for n in range(channels)), "label"]) + "\n"
    values = np.random.default_rng(number).normal(100, 20, (rows, channels))
    for row in range(rows):
        stamp = f"{row / HZ:.2f}"
        if case == "iso8601":
            stamp = f"2026-01-{1 + row // 8_640_000:02d} {row // 360_000 % 24:02d}:{row // 6000 % 60:02d}"
            stamp += f":{row // HZ % 60:02d}.{row % HZ:02d}0"
        label = "attack" if row // 5000 % 4 == 3 else "normal"
        cells = delimiter.join([stamp, *(f"{value:.3f}" for value in values[row].tolist())])
        if case == "decimal comma":
            cells = cells.replace(".", ",")
        yield f"{cells}{delimiter}{quote}{label}{quote}\n"


def measure(case: str, rows: int, files: int, channels: int, folder: Path) -> dict[str, object]:
    """One import in its own process."""
    size = write_files(folder / "csv", case, rows, files, channels)
    comma = case == "decimal comma"
    text = _DESCRIPTION.format(
        delimiter=";" if comma else ",",
        decimal="," if comma else ".",
        unit="iso8601" if case == "iso8601" else "s",
    )
    (folder / "import.toml").write_text(text + "".join(_CHANNEL.format(n=n) for n in range(channels)))
    program = (
        "import resource, sys; from collection.import_csv import main; code = main(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr); raise SystemExit(code)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(folder / "csv"),
        "--description",
        str(folder / "import.toml"),
    ]
    began_s = time.monotonic()
    done = subprocess.run(
        [*command, "--out", str(folder / "out")], check=True, capture_output=True, text=True
    )
    took_s = time.monotonic() - began_s
    cpu_s, peak_kib = done.stderr.split()[-2:]
    return {
        "case": case,
        "rows": rows,
        "columns": channels + 2,
        "csv_mb": round(size / 1e6, 1),
        "seconds": round(took_s, 2),
        "rows_per_s": round(rows / took_s),
        "cpu_s": round(float(cpu_s), 2),
        "peak_mib": int(peak_kib) // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--channels", type=int, default=6)
    parser.add_argument(
        "--folder", type=Path, help="where to write (default: the folder for temporary files)"
    )
    options = parser.parse_args()
    for case in CASES:
        folder = Path(tempfile.mkdtemp(prefix="import-csv-", dir=options.folder))
        try:
            print(
                json.dumps(measure(case, options.rows, options.files, options.channels, folder)), flush=True
            )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
