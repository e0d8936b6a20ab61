"""The failpoints of the source, found by reading it: `python -m tools.failpoints` lists them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cis490", "training", "collection")


class FailpointError(Exception):
    """A failpoint whose name cannot be read off the source, or stands there twice."""


def found(root: Path = ROOT) -> dict[str, str]:
    """Name of each `failpoint("area.moment")` -> its file relative to `root`, sorted by name."""
    names: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
                name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
                if not isinstance(name, str):
                    raise FailpointError(f"{where}:{call.lineno}: a failpoint's name is a literal string")
                if name in names:
                    raise FailpointError(f"{where}:{call.lineno}: {name} stands in {names[name]} too")
                names[name] = where
    return dict(sorted(names.items()))


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
    ]


def main() -> int:
    for name, where in found().items():
        print(f"{name:32} {where}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
