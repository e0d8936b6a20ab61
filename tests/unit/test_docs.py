"""The pages in docs/ say what the code does: nothing that can be asked for, typed or logged is left out."""

from __future__ import annotations

import argparse
import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tools import docs
from training.fleet import cli, receiver_settings, worker_settings
from training.fleet.eligibility import HostView, Requirement, Rules, checks
from training.fleet.endpoint import Endpoint
from training.fleet.lifecycle import EVENTS, PHASES
from training.fleet.outcome import FAIL_CLASS_OF
from training.fleet.routes import ROUTES
from training.fleet.types import FAIL_CLASSES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DESIGN_PAGES = sorted((DOCS / "design").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *DESIGN_PAGES]
TABLES = ("dependencies.md",)
"""Pages of docs/design/ that are a list and not a decision."""
MAX_DESIGN_LINES = 60
EXPANDED = {"job.*": ("job.cancel", "job.requeue"), "host.*": ("host.drain", "host.undrain")}
"""Event names that the code puts together, and what they become."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_endpoint_has_its_section(route: Endpoint) -> None:
    assert f"\n### {route.method} {route.path}\n" in page("protocol.md")


def test_no_endpoint_is_documented_that_does_not_exist() -> None:
    sections = re.findall(r"(?m)^### ((?:GET|POST|PUT) /\S+)$", page("protocol.md"))
    assert sorted(sections) == sorted(f"{route.method} {route.path}" for route in ROUTES)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


def documented_options(heading: str) -> set[str]:
    section = page("operator-guide.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"(?m)^\| `(--[a-z-]+)` \|", section))


def test_the_options_of_the_receiver_are_documented() -> None:
    assert documented_options("Options of the receiver") == options_of(receiver_settings.arguments())


def test_the_options_of_the_worker_are_documented() -> None:
    assert documented_options("Options of the worker") == options_of(worker_settings.parser())


@pytest.mark.parametrize("option", worker_settings.OPTIONS, ids=lambda option: option.flag)
def test_the_variable_and_default_of_a_worker_option_are_documented(option: worker_settings.Option) -> None:
    start = f"| `{option.flag}` | `{option.env}` |"
    assert f"{start} `{option.default}` |" in page("operator-guide.md") or option.default is None
    assert start in page("operator-guide.md")


def test_every_command_and_option_of_the_operator_is_documented() -> None:
    (verbs,) = (
        action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    text = page("cli.md")
    assert [verb for verb in verbs if f"\n## {verb}\n" not in text] == []
    assert {option for verb in verbs.values() for option in options_of(verb) if option not in text} == set()


def event_names() -> set[str]:
    """The second argument of every `event(logger, NAME, ...)` in the code."""
    found: set[str] = set()
    for folder in ("cis490", "training", "collection"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event":
                    found |= spelled(node.args[1])
    return found


def spelled(name: ast.expr) -> set[str]:
    if isinstance(name, ast.Constant):
        return {str(name.value)}
    assert isinstance(name, ast.JoinedStr), f"line {name.lineno}: an event's name is a text"
    pattern = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in name.values)
    return set(EXPANDED[pattern])


def test_events_are_logged_under_one_name_only() -> None:
    """The test below looks for calls of `event`: under another name one would not be seen."""
    imports = re.compile(r"(?ms)^ *from cis490\.logs import (\(.*?\)|[^(]*?)$")
    renamed = [
        named(path)
        for folder in ("cis490", "training", "collection")
        for path in (ROOT / folder).rglob("*.py")
        if any(" as " in found for found in imports.findall(path.read_text(encoding="utf-8")))
    ]
    assert renamed == []


def test_exactly_the_events_of_the_code_are_documented() -> None:
    logs = page("operator-guide.md").split("\n## Logs\n")[1]
    first_cells = re.findall(r"(?m)^\| (`[a-z_]+\.[^|]*)\|", logs)
    assert set(re.findall(r"`([a-z_]+\.[a-z_]+)`", " ".join(first_cells))) == event_names()


def test_generated_parts_are_up_to_date() -> None:
    assert [path.name for path in docs.out_of_date()] == []


def test_a_generated_part_is_replaced_and_the_rest_left_alone() -> None:
    part = docs.Part("x.md", "x", lambda: "new\n")
    before = "above\n<!-- generated: x -->\nold\n<!-- end generated: x -->\nbelow\n"
    assert docs.filled(before, part) == before.replace("old", "new")
    with pytest.raises(docs.DocsError, match=r"x\.md lacks"):
        docs.filled("no markers", part)


def test_every_state_and_event_is_explained() -> None:
    text = page("lifecycle.md")
    assert [phase for phase in PHASES if f"| `{phase}` |" not in text] == []
    assert [event for event in EVENTS if f"| `{event}` |" not in text] == []


def test_every_constraint_that_why_can_name_is_explained() -> None:
    wish = Requirement("gbt", prefer_cuda=True, more_vram_than_gib=1.0, more_ram_than_gib=1.0)
    names = {check.constraint for check in checks(wish, HostView("a"), (), Rules())}
    assert {name for name in names if f"`{name}`" not in page("operator-guide.md")} == set()


def test_every_exit_code_of_the_trainer_has_its_class() -> None:
    rows = dict(re.findall(r"(?m)^\| (\d+) \|.*\| `([a-z_]+)` \|$", page("trainer.md")))
    assert {code: name for code, name in FAIL_CLASS_OF.items() if rows.get(str(code)) != name} == {}


def test_every_class_of_failure_is_explained() -> None:
    for name in ("protocol.md", "design/retry-budgets.md"):
        assert [known for known in FAIL_CLASSES if f"`{known}`" not in page(name)] == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        if "://" in target:
            continue
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, spaces as hyphens, no punctuation."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [path for path in DESIGN_PAGES if path.name not in TABLES], ids=named)
def test_a_decision_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_DESIGN_LINES


def test_every_module_of_the_fleet_has_its_place_in_the_table_of_layers() -> None:
    table = page("architecture.md").split("\n## Layers\n")[1].split("\n## ")[0]
    patterns = re.findall(r"`([\w*]+)`", table)
    modules = {path.stem for path in (ROOT / "training" / "fleet").glob("*.py")} - {"__init__"}
    assert {name for name in modules if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
