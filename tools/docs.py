"""Write the generated parts of docs/ again: `python -m tools.docs`, or `make docs`. With `--check` only compare.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end generated: NAME -->`; the rest of a page is
written by hand and left alone. Exit codes: 0 up to date now, 1 a part is out of date (with `--check`) or a page
lacks its markers, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from benchmarks import tsc_table
from tools import access_table, failpoints, results_table, transcripts
from training.fleet.codes import SECTIONS
from training.fleet.endpoint import Endpoint
from training.fleet.lifecycle import mermaid, table_markdown
from training.fleet.routes import ROUTES
from training.trainer.options import MODELS, HyperValue, ModelOptions, expected_text

DOCS = Path(__file__).resolve().parent.parent / "docs"


class DocsError(Exception):
    """A page without the markers that its generated part needs."""


@dataclass(frozen=True, slots=True)
class Part:
    """One generated part: the page it stands on, its name in the markers, and what makes it."""

    page: str
    name: str
    make: Callable[[], str]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a `|` inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    joined = ["| " + " | ".join(line) + " |\n" for line in lines]
    joined[1] = "|" + "---|" * len(header) + "\n"
    return "".join(joined)


def lifecycle_diagram() -> str:
    return f"```mermaid\n{mermaid()}```\n"


def protocol_endpoints() -> str:
    """The table of routes; what an endpoint does is the first line of its handler's docstring."""
    return table(("method", "path", "who", "body", "what"), map(_endpoint_row, ROUTES))


def _endpoint_row(route: Endpoint) -> Sequence[str]:
    what = (route.handler.__doc__ or "").strip().splitlines()[0]
    return route.method, f"`{route.path}`", route.who, _body(route), what


def _body(route: Endpoint) -> str:
    if route.body is not None:
        return ", ".join(f"`{field.name}`" for field in fields(route.body))
    return "the bundle" if route.method == "PUT" else "-"


def trainer_models() -> str:
    header = ("model", "libraries", "GPU", "RAM", "progress counts", "what it is")
    return table(header, map(_model_row, MODELS.values()))


def _model_row(model: ModelOptions) -> Sequence[str]:
    counts = "-" if not model.iterative else "rounds" if "rounds" in model.options else "epochs"
    return (
        f"`{model.name}`",
        ", ".join(model.needs.libraries),
        model.needs.cuda,
        f"{model.needs.min_ram_gib:g} GiB",
        counts,
        model.help,
    )


def trainer_options() -> str:
    """One row for each option; models that share it word for word share the row."""
    models: dict[tuple[str, ...], list[str]] = {}
    for model in MODELS.values():
        for option in model.options.values():
            row = (option.name, expected_text(option), _shown(option.default_value()), option.help)
            models.setdefault(row, []).append(model.name)
    rows = (
        (f"`{name}`", ", ".join(users), value, f"`{default}`", text)
        for (name, value, default, text), users in sorted(models.items())
    )
    return table(("option", "models", "value", "default", "meaning"), rows)


def manifest_hyper() -> str:
    """The options of each model, one table for each."""
    header = ("key", "value", "default", "meaning")
    parts: list[str] = []
    for model in MODELS.values():
        rows = (
            (f"`{o.name}`", expected_text(o), f"`{_shown(o.default_value())}`", o.help)
            for o in model.options.values()
        )
        about = f"{model.help[:1].upper()}{model.help[1:]}."
        parts += [f"#### `{model.name}`", about, table(header, rows)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _shown(value: HyperValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def failpoint_list() -> str:
    """The places where a test may strike, by file."""
    by_file: dict[str, list[str]] = {}
    for name, file in failpoints.found().items():
        by_file.setdefault(file, []).append(f"`{name}`")
    return table(("file", "places"), ((f"`{file}`", ", ".join(by_file[file])) for file in sorted(by_file)))


def codes_list() -> str:
    """Every code and word, a table for each kind."""
    parts: list[str] = []
    for section in SECTIONS:
        rows = (
            (f"`{entry.code}`", f"**{entry.title}.** {entry.meaning}", entry.action)
            for entry in section.entries
        )
        about = [section.about] if section.about else []
        parts += [f"## {section.title}", *about, table(("code", "what it means", "what to do"), rows)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


PARTS: tuple[Part, ...] = (
    *(Part("cli.md", f"cli-{verb}", partial(transcripts.transcript, verb)) for verb in transcripts.VERBS),
    Part("errors.md", "codes", codes_list),
    Part("faults.md", "failpoints", failpoint_list),
    Part("lifecycle.md", "lifecycle-diagram", lifecycle_diagram),
    Part("lifecycle.md", "lifecycle-table", table_markdown),
    Part("benchmarks-tsc.md", "tsc", tsc_table.published),
    Part("manifest.md", "manifest-hyper", manifest_hyper),
    Part("protocol.md", "protocol-endpoints", protocol_endpoints),
    Part("results.md", "results", results_table.results),
    Part("security.md", "security-matrix", access_table.tables),
    Part("trainer.md", "trainer-models", trainer_models),
    Part("trainer.md", "trainer-options", trainer_options),
)


def filled(text: str, part: Part) -> str:
    """The page's text with the part made anew. Raises DocsError when its markers are missing."""
    start, end = f"<!-- generated: {part.name} -->\n", f"<!-- end generated: {part.name} -->\n"
    head, opened, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not opened or not closed:
        raise DocsError(f"docs/{part.page} lacks the lines {start.strip()!r} and {end.strip()!r}")
    return head + start + part.make() + end + tail


def out_of_date(docs: Path = DOCS) -> dict[Path, str]:
    """The pages whose generated parts are not what they would be now, each with its new text."""
    texts: dict[Path, str] = {}
    for part in PARTS:
        path = docs / part.page
        texts[path] = filled(texts.get(path) or path.read_text(encoding="utf-8"), part)
    return {path: text for path, text in texts.items() if path.read_text(encoding="utf-8") != text}


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or with `--check` compare; the exit codes stand at the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a part is out of date"
    )
    args = parser.parse_args(argv)
    try:
        changed = out_of_date()
    except DocsError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    for path, text in changed.items():
        if args.check:
            print(f"docs: {path.name} is out of date; type: make docs", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"docs: {path.name} written")
    return 1 if args.check and changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
