"""Health: the receiver itself, and a notification to try whether one arrives."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from training.dashboard import forms, pages
from training.dashboard.api import Refusal
from training.dashboard.pages import Action, Ask, Page

TROUBLES = (
    ("disk", "Disk", "df -h   (on the receiver's machine)"),
    ("writer", "Database writer", "journalctl -u cis490-trainer-receiver -n 50   (on the receiver's machine)"),
    ("reaper", "Looking for lost leases", "journalctl -u cis490-trainer-receiver -n 50   (on the receiver's machine)"),
)  # fmt: skip
"""Key of `GET /v1/health`, what it is about, where to look."""


async def health(ask: Ask) -> dict[str, Any]:
    found = await ask.get("/v1/health", details=1)
    troubles = [
        {"key": key, "title": title, "trouble": found.get(key), "next": next_}
        for key, title, next_ in TROUBLES
    ]
    return {
        "status": found.get("status"),
        "troubles": troubles,
        "details": found.get("details") or {},
    }


async def notify_test(request: Request) -> Response:
    """Send a notification to every target, and say what became of it."""
    try:
        _, session = await forms.read_as_operator(request)
    except forms.FormError as error:
        return error.response
    try:
        found = await pages.ask_of(request).api.post("/v1/notify/test")
    except Refusal as refusal:
        if refusal.status != 409:
            return await pages.refused(request, refusal)
        session.say(f"Nothing was sent: {refusal}.")
        found = {}
    targets = found.get("targets") or []
    for one in targets:
        went = (
            "a test message was taken"
            if one.get("ok")
            else f"failed: {one.get('error') or 'no reason given'}"
        )
        session.say(f"{one.get('kind', 'target')}: {went}.")
    return pages.see_other("/health")


async def ask_first(request: Request) -> Response:
    """A link to the form's address by hand: the button is on the page."""
    return pages.see_other("/health")


PAGES = (Page("/health", "health.html", health),)
ACTIONS = (
    Action("/health/notify", notify_test, ("POST",)),
    Action("/health/notify", ask_first, ("GET",)),
)
