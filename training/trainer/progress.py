"""Progress of a training run as JSON lines, protocol version 1.

    {"event": "start", "total": 150, "unit": "round", "v": 1}
    {"event": "progress", "loss": 0.41, "metric": {"validation_loss": 0.52}, "step": 7, "total": 150, "v": 1}
    {"event": "warn", "text": "...", "v": 1}
    {"event": "result", "metric": {"roc_auc": 0.83}, "v": 1}
    {"event": "end", "exit_code": 0, "text": "...", "v": 1}

Steps are written at most twice a second, and the last one always. A reader may see a line before its newline
is written: take whole lines only.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from training.trainer.errors import CannotWrite
from training.trainer.options import Json

MIN_GAP_S = 0.5
VERSION = 1


class Progress:
    """Writes the lines; with no path only the warnings, for a person. `clock` gives seconds of a steady clock."""

    def __init__(self, path: Path | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._written_at: float | None = None
        self._file: IO[str] | None = None
        try:
            if path is not None:
                self._file = path.open("w", encoding="utf-8", newline="\n", buffering=1)
        except OSError as error:
            raise CannotWrite(f"progress file {path}: cannot be written: {error.strerror}") from error

    def start(self, total: int, unit: str) -> None:
        """The run begins; `total` steps are to come."""
        self._write("start", {"total": total, "unit": unit})

    def step(self, step: int, total: int, loss: float, metric: Mapping[str, float]) -> None:
        """A step is done."""
        now = self._clock()
        if step < total and self._written_at is not None and now - self._written_at < MIN_GAP_S:
            return
        self._written_at = now
        rounded: dict[str, Json] = {name: round(value, 6) for name, value in metric.items()}
        self._write("progress", {"step": step, "total": total, "loss": round(loss, 6), "metric": rounded})

    def warn(self, text: str) -> None:
        """Something a person should know, though the run goes on: on standard error, where there is no file."""
        if self._file is None:
            print(f"warning: {text}", file=sys.stderr)
        self._write("warn", {"text": text})

    def result(self, metric: Mapping[str, Json]) -> None:
        """The headline measures."""
        self._write("result", {"metric": dict(metric)})

    def end(self, exit_code: int, text: str) -> None:
        """The last line, whatever happened."""
        self._write("end", {"exit_code": exit_code, "text": text})

    def _write(self, event: str, content: Mapping[str, Json]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps({"v": VERSION, "event": event, **content}, sort_keys=True) + "\n")
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """A disk that is full takes the sight of the training, not the training."""
        print(f"progress can no longer be written: {error}; the run goes on", file=sys.stderr)
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what was left in its buffer; the file is closed all the same
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
