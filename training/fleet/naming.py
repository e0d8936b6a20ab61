"""Which job, host or artifact an operator's word means. Pure: decided on the rows that were listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.fleet.tables import Row, safe, text_of

MIN_PREFIX = 4
"""Characters of an id below which it is not looked for: shorter ones are typing errors."""
MOST_CANDIDATES = 10


class NotNamed(Exception):
    """The word names nothing, or more than one thing. `lines` say what it may have meant."""

    def __init__(self, *lines: str, candidates: int = 0) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.candidates = candidates
        """How many things it may name."""


def find_job(jobs: Sequence[Row], word: str) -> Row:
    """The one job that `word` names: a name, a full id or a unique prefix of an id.

    A job that a reload removed may share its name with its successor; the name means the successor.
    Raises NotNamed with the candidates when there is none or more than one.
    """
    named = [job for job in jobs if job.get("name") == word]
    found = [job for job in named if not job.get("held")] or named
    if not found and len(word) >= MIN_PREFIX:
        found = [job for job in jobs if text_of(job, "job_id").startswith(word.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise unknown("job", word, (text_of(job, "name") for job in jobs), "cis490-jobs list")
    listed = [
        f"    {text_of(job, 'job_id')}  {text_of(job, 'name')}  {text_of(job, 'status')}"
        for job in found[:MOST_CANDIDATES]
    ]
    more = [f"    and {len(found) - MOST_CANDIDATES} more"] if len(found) > MOST_CANDIDATES else []
    raise NotNamed(
        f'"{safe(word)}" may mean any of {len(found)} jobs; give more of the id:',
        *listed,
        *more,
        candidates=len(found),
    )


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
