"""The fleet's SQL: numbered migrations and named statements, read once from the files beside this module."""

from __future__ import annotations

from importlib.resources import files

from cis490.database.named import load

_FOLDER = files(__package__)

STATEMENTS: dict[str, str] = load(_FOLDER.joinpath("queries.sql").read_text(encoding="utf-8"))
MIGRATIONS: tuple[tuple[int, str], ...] = (
    (1, _FOLDER.joinpath("0001_first.sql").read_text(encoding="utf-8")),
    (2, _FOLDER.joinpath("0002_drain.sql").read_text(encoding="utf-8")),
    (3, _FOLDER.joinpath("0003_datasets.sql").read_text(encoding="utf-8")),
    (4, _FOLDER.joinpath("0004_shadow_runs.sql").read_text(encoding="utf-8")),
    (5, _FOLDER.joinpath("0005_steering.sql").read_text(encoding="utf-8")),
    (6, _FOLDER.joinpath("0006_estimates.sql").read_text(encoding="utf-8")),
    (7, _FOLDER.joinpath("0007_access.sql").read_text(encoding="utf-8")),
)
"""(version, script), ascending; a released script never changes, a change is a new number."""
