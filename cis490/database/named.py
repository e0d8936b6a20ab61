"""SQL kept in `.sql` files, one named statement per block.

    -- name: renew_lease
    -- Moves the deadline of a live lease; no row changed means that the lease is gone.
    UPDATE job SET ... WHERE id = :job_id AND token = :token;

The comment lines under the name are for the reader and do not reach the database.
"""

import re

_HEADER = re.compile(r"--\s*name\s*:(.*)")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class NamedSqlError(ValueError):
    """The SQL text is not a list of named statements; the text of the error names the line."""


def load(text: str) -> dict[str, str]:
    """Name -> statement, in the order of the text. Before the first name only comments and blank lines may stand.

    Raises NamedSqlError on a name that is malformed or given twice, and on a block without a statement.
    """
    blocks: dict[str, list[str]] = {}
    started_at: dict[str, int] = {}
    body: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line.strip())
        if header is not None:
            name = _checked_name(header.group(1).strip(), number, started_at)
            started_at[name] = number
            body = blocks[name] = []
        elif body is None:
            if line.strip() and not line.lstrip().startswith("--"):
                raise NamedSqlError(
                    f"line {number}: SQL before the first '-- name: word' line: {line.strip()!r}"
                )
        elif body or (line.strip() and not line.lstrip().startswith("--")):
            body.append(line)
    return {name: _statement(name, lines, started_at[name]) for name, lines in blocks.items()}


def _checked_name(name: str, line: int, started_at: dict[str, int]) -> str:
    if _NAME.fullmatch(name) is None:
        raise NamedSqlError(f"line {line}: {name!r} is no name; expected lower-case letters, digits and _")
    if name in started_at:
        raise NamedSqlError(f"line {line}: the name {name!r} stands at line {started_at[name]} already")
    return name


def _statement(name: str, lines: list[str], line: int) -> str:
    statement = "\n".join(lines).strip().removesuffix(";").rstrip()
    if not statement:
        raise NamedSqlError(f"line {line}: no statement follows the name {name!r}")
    return statement
