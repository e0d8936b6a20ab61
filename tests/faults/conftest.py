"""What the fault tests share: fleets in the test's folder, and the sum of what was tried at the end of the session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.factories.fault_fleet import Fleet

DENOMINATORS = "denominators"
StartFleet = Callable[..., Fleet]


@pytest.fixture
def start_fleet(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[StartFleet]:
    """Starts a fleet in the test's folder; it is ended with the test, whatever happened."""
    with ExitStack() as stack:

        def start(**options: Any) -> Fleet:
            folder = tmp_path / "fleet"
            folder.mkdir()
            note = options.pop("note", lambda counts: record_property(DENOMINATORS, counts))
            return stack.enter_context(Fleet(folder, note=note, **options))

        yield start


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The denominators of all fault tests of this run, added up."""
    total: Counter[str] = Counter()
    tests = 0
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, counts in getattr(report, "user_properties", ()):
                if name == DENOMINATORS and report.when == "call":
                    total.update(counts)
                    tests += 1
    if tests:
        terminalreporter.section(f"faults: {tests} scenarios")
        terminalreporter.line(", ".join(f"{n} {what}" for what, n in sorted(total.items())))
