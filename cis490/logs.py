"""Log lines as data: `at=... level=... logger=... event=job.claimed job_id=... host=...` on stderr, or in a file.

An event's name never changes once released, so that `grep event=job.claimed` goes on working; what varies stands in
the fields. Values that would break the line, or forge another one, are quoted as JSON strings.
"""

import json
import logging
import os
import re
import sys
import time
from pathlib import Path

_FIELDS = "event_fields"
_BARE = re.compile(r"[!#-<>-\[\]-~]+")
_SECRET = re.compile(r"token|secret|password|authorization", re.IGNORECASE)
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

FILE_BYTES = 10 * 1024 * 1024
"""A log file of this size becomes `NAME.1`, in place of the one before it; then a new one begins."""


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Ours, told apart from handlers that others (a test runner) put on the root logger."""


class _FileHandler(logging.FileHandler):
    """Ours as well: a file that never grows beyond `FILE_BYTES`, and the one before it."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        try:
            if self.stream is not None and self.stream.tell() >= FILE_BYTES:
                self.close()  # Windows renames no open file; the next record opens a new one
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
        except OSError:
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    """One record as one line; a traceback follows, each of its lines indented so that none looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = (
            f"at={at}.{int(record.msecs):03d}Z level={record.levelname.lower()} logger={_value(record.name)}"
        )
        fields: dict[str, object] | None = getattr(record, _FIELDS, None)
        if fields is None:
            line = f"{head} event=log message={_value(record.getMessage())}"
        else:
            line = " ".join(
                [f"{head} event={record.msg}", *(_pair(key, value) for key, value in fields.items())]
            )
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n  {text}" for text in trace.splitlines())
        return line


def _pair(key: str, value: object) -> str:
    return f"{key}=[hidden]" if _SECRET.search(key) else f"{key}={_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else repr(value)
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def configure(level: str, file: Path | None = None) -> None:
    """Send everything from `level` (DEBUG ... CRITICAL, any case) up to stderr, or into `file`: for a service whose
    stderr nobody keeps. Calling again replaces both.

    Raises ValueError for an unknown level, OSError when the file cannot be written.
    """
    name = level.upper()
    if name not in _LEVELS:
        raise ValueError(f"log level {level!r} is not known; expected one of {', '.join(_LEVELS)}")
    handler: logging.Handler = _Handler() if file is None else _FileHandler(file, encoding="utf-8")
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler | _FileHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(name)


def goes_into_a_file() -> bool:
    """Whether `configure` was given one."""
    return any(isinstance(handler, _FileHandler) for handler in logging.getLogger().handlers)


def event(logger: logging.Logger, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log event `name` with `fields`. A field whose name speaks of a token, secret or password is never written.

    Inside an `except` block, `logging.ERROR` and above carry the traceback.
    """
    failing = level >= logging.ERROR and sys.exc_info()[0] is not None
    logger.log(level, name, extra={_FIELDS: fields}, exc_info=failing)
