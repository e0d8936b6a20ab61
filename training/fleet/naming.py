"""Which job, host or artifact an operator's word means. Pure: decided on the rows that were listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from training.fleet.tables import Row, safe, text_of, words_of

MIN_PREFIX = 4
"""Characters of an id below which it is not looked for: shorter ones are typing errors."""
MOST_CANDIDATES = 10


NAMELESS = "artifact"


class NoArtifact(Exception):
    """The job has no artifact yet. The message says what to type next."""


class NotNamed(Exception):
    """The word names nothing, or more than one thing. `lines` say what it may have meant."""

    def __init__(self, *lines: str, candidates: int = 0) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.candidates = candidates
        """How many things it may name."""


class Resolved(NamedTuple):
    """What a word means: the one row it names, or the names it may have meant."""

    row: Row | None
    candidates: tuple[str, ...] = ()
    """Names of several things that it fits, or that are near."""
    ids: tuple[str, ...] = ()
    """Their ids, where it fits several: two of them may have the same name."""
    did_you_mean: str | None = None


def resolve(
    rows: Sequence[Row], word: str, *, name_key: str = "name", id_key: str | None = "job_id"
) -> Resolved:
    """The one row that `word` names: an exact name, else a full id or a unique prefix of an id (from 4 characters
    on), else a unique prefix of a name.

    Of two jobs of one name the one that the manifest has is meant.
    """
    named = [row for row in rows if row.get(name_key) == word]
    found = [row for row in named if not row.get("held")] or named
    if not found and id_key is not None and len(word) >= MIN_PREFIX:
        found = [row for row in rows if text_of(row, id_key).startswith(word.lower())]
    if not found and word:
        found = [row for row in rows if text_of(row, name_key).startswith(word)]
        found = [row for row in found if not row.get("held")] or found
    if len(found) == 1:
        return Resolved(found[0])
    if found:
        found = found[:MOST_CANDIDATES]
        ids = () if id_key is None else tuple(text_of(row, id_key) for row in found)
        return Resolved(None, tuple(text_of(row, name_key) for row in found), ids)
    near = nearest(word, (text_of(row, name_key) for row in rows))
    return Resolved(None, tuple(near), (), near[0] if near else None)


def find_job(jobs: Sequence[Row], word: str) -> Row:
    """The one job that `word` names, see `resolve`. Raises NotNamed with what it may have meant."""
    found = resolve(jobs, word)
    if found.row is None:
        told = {
            "candidates": list(found.candidates),
            "ids": list(found.ids),
            "did_you_mean": found.did_you_mean,
        }
        raise not_resolved("job", word, told, "cis490-jobs list")
    return found.row


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """The names that `word` may be a slip of the pen for, best first."""
    from difflib import get_close_matches

    known = sorted(set(names))
    inside = [name for name in known if word and word in name][:3]
    return inside or get_close_matches(word, known, n=3, cutoff=0.7)


def unknown(kind: str, word: str, names: Iterable[str], command: str) -> NotNamed:
    """`word` is no `kind`: the nearest of `names`, and the command that lists them all."""
    from difflib import get_close_matches

    known = sorted(set(names))
    near = [name for name in known if word and word in name][:3] or get_close_matches(
        word, known, n=2, cutoff=0.75
    )
    guess = f"; did you mean {' or '.join(map(safe, near))}?" if near else ""
    count = f"the receiver knows {len(known)}" if known else "the receiver knows none"
    return NotNamed(f'no {kind} is called "{safe(word)}" ({count}){guess}', f"  next: {command}")


def find_artifact(jobs: Sequence[Row], word: str) -> Row | None:
    """The job whose artifact has the id, or the unique id prefix, `word`; None when there is none."""
    if len(word) < MIN_PREFIX:
        return None
    found = [job for job in jobs if text_of(job, "artifact_id").startswith(word.lower())]
    return found[0] if len({text_of(job, "artifact_id") for job in found}) == 1 else None


def artifact_of(jobs: Sequence[Row], word: str) -> tuple[str, str]:
    """(artifact id, a name for it that can be a folder's) of the job or artifact that `word` names.

    Raises NoArtifact when the job has none, NotNamed when nothing is called so.
    """
    from cis490.digest import is_digest
    from cis490.files import is_safe_name

    job = find_artifact(jobs, word)
    if job is None and is_digest(word) and all(text_of(known, "job_id") != word for known in jobs):
        return word, NAMELESS  # of an earlier generation: no row names it any more, the store has it
    job = job or find_job(jobs, word)
    artifact, name = text_of(job, "artifact_id"), text_of(job, "name")
    if not is_digest(artifact):
        state = text_of(job, "status")
        raise NoArtifact(f"{name} has no artifact yet: it is {state}\n  next: cis490-jobs show {name}")
    return artifact, name if is_safe_name(name) else NAMELESS


def not_resolved(kind: str, word: str, body: Row, command: str) -> NotNamed:
    """The receiver's 404 to `resolve`, for a person: what the word may mean, and what lists all there are."""
    candidates, guess = words_of(body, "candidates"), text_of(body, "did_you_mean")
    if candidates and not guess:
        ids = words_of(body, "ids")
        listed = [f"    {one}  {name}" for one, name in zip(ids, candidates, strict=False)] or [
            f"    {name}" for name in candidates
        ]
        first = f'"{safe(word)}" may mean any of {len(candidates)} {kind}s; give more of it:'
        return NotNamed(first, *listed, candidates=len(candidates))
    meant = f"; did you mean {guess}?" if guess else ""
    return NotNamed(f'no {kind} is called "{safe(word)}"{meant}', f"  next: {command}")
