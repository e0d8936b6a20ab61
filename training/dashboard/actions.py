"""What the operator may do from the pages: each a form that asks first and works without JavaScript.

GET shows the question, POST sends the verb through the interface as the operator and leads back with 303. The
verbs, their rules and their records are those of `POST /v1/...`; nothing is decided here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import forms, pages, words
from training.dashboard.api import Refusal
from training.dashboard.pages import Action

MAX_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Verb:
    """One form. `{name}` in a text stands for the job's or host's name."""

    of: Literal["job", "host", "fleet"]
    word: str
    question: str
    effect: str
    button: str
    done: str
    tone: str = ""
    takes_reason: bool = False

    @property
    def path(self) -> str:
        return f"/fleet/{self.word}" if self.of == "fleet" else f"/{self.of}/{{name}}/{self.word}"

    def ask(self, key: str) -> str:
        """The verb's path in the interface."""
        return f"/v1/fleet/{self.word}" if self.of == "fleet" else f"/v1/{self.of}/{key}/{self.word}"

    def back(self, name: str) -> str:
        return "/" if self.of == "fleet" else f"/{self.of}/{words.segment(name)}"


VERBS = (
    Verb(
        "job", "cancel", "Cancel {name}?",
        "It is not handed out any more. A worker that trains it now stops at its next heartbeat, and what that attempt "
        "has learned is lost. Put back brings the job back later.",
        "Cancel the job", "{name} is cancelled.", "bad",
    ),
    Verb(
        "job", "requeue", "Put {name} back in the queue?",
        "It waits for a host again, with fresh budgets for failures and lost hosts. Past attempts stay on record.",
        "Put it back", "{name} waits in the queue again.",
    ),
    Verb(
        "job", "pause", "Pause {name}?",
        "It is not handed out until it is resumed. An attempt that runs now goes on.",
        "Pause the job", "{name} is paused.", takes_reason=True,
    ),
    Verb("job", "resume", "Resume {name}?", "It may be handed out again.", "Resume the job", "{name} may run again."),
    Verb(
        "host", "drain", "Drain {name}?",
        "It finishes what it has and gets nothing more until it is undrained.",
        "Drain the host", "{name} is draining: it gets no more jobs.", takes_reason=True,
    ),
    Verb(
        "host", "undrain", "Give {name} jobs again?", "Its next claim may be answered with a job.",
        "Undrain the host", "{name} gets jobs again.",
    ),
    Verb(
        "host", "resume", "Resume {name}?",
        "It was paused because several different jobs failed on it in a row. Look at its last errors first: with the "
        "cause still there it fails the next jobs too.",
        "Resume the host", "{name} gets jobs again.",
    ),
    Verb(
        "fleet", "pause", "Pause the whole fleet?",
        "No job is handed out to any host until the fleet is resumed. Running attempts go on to their end.",
        "Pause the fleet", "The fleet is paused: running attempts go on, nothing new starts.", "bad", takes_reason=True,
    ),
    Verb(
        "fleet", "resume", "Resume the fleet?", "Hosts that ask get jobs again.",
        "Resume the fleet", "The fleet runs again.",
    ),
)  # fmt: skip


async def act(verb: Verb, request: Request) -> Response:
    """The question (GET), or the deed (POST)."""
    word = request.path_params.get("name", "")
    if request.method != "POST":
        return await _question(verb, word, request)
    try:
        fields, session = await forms.read_as_operator(request, keep=("reason",))
    except forms.FormError as error:
        return error.response
    ask = pages.ask_of(request)
    try:
        subject = await _subject(verb, word, ask)
        await ask.api.post(verb.ask(subject["key"]), _body(verb, fields))
    except Refusal as refusal:
        return await pages.refused(request, refusal)
    session.say(verb.done.format(name=subject["name"]))
    return pages.see_other(verb.back(subject["name"]))


async def _question(verb: Verb, word: str, request: Request) -> Response:
    ask = pages.ask_of(request)
    if ask.session is None:
        return forms.to_login(
            pages.path_of(request), {key: ask.query[key] for key in ("reason",) if key in ask.query}
        )
    try:
        subject = await _subject(verb, word, ask)
    except Refusal as refusal:
        return await pages.refused(request, refusal)
    data = {
        "path": pages.path_of(request), "question": verb.question.format(name=subject["name"]),
        "effect": verb.effect, "button": verb.button, "tone": verb.tone, "takes_reason": verb.takes_reason,
        "reason": ask.query.get("reason", ""), "back": verb.back(subject["name"]), "subject": subject,
        "verb": verb.word, "max_reason": MAX_REASON_CHARS,
    }  # fmt: skip
    return await pages.render(request, "confirm.html", data)


async def _subject(verb: Verb, word: str, ask: pages.Ask) -> dict[str, Any]:
    """Whom it is about: `key` for the interface, `name`, and how it stands. Raises Refusal when there is none such."""
    if verb.of == "fleet":
        return {"key": "", "name": "the fleet"}
    if verb.of == "host":
        found = await ask.get(f"/v1/host/{word}")
        return {"key": word, "name": word, "host": found.get("host") or {}}
    resolved = await ask.get("/v1/resolve", job=word)
    job = (await ask.get(f"/v1/job/{resolved['job_id']}"))["job"]
    return {"key": resolved["job_id"], "name": job["name"], "job": job}


def _body(verb: Verb, fields: Mapping[str, str]) -> dict[str, Any]:
    if verb.takes_reason:
        reason = " ".join(fields.get("reason", "").split())[:MAX_REASON_CHARS]
        return {"reason": reason} if reason else {}
    return {"force": True} if verb.word == "requeue" and fields.get("force") == "yes" else {}


ACTIONS = tuple(Action(verb.path, functools.partial(act, verb)) for verb in VERBS)
