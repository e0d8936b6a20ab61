"""The manifest's `[notify]` table: who is told of what, and how. Pure.

Secrets never stand in a manifest: it names the environment variables that hold them. A text that stands where such a
name belongs may be the secret itself, so no message repeats it.
"""

from __future__ import annotations

import re
from dataclasses import fields

from training.fleet.manifest_table import Table
from training.fleet.types import NOTIFY_KINDS, Notify

NOTIFY_KEYS = tuple(field.name for field in fields(Notify))
LEAST_DIGEST_S, MOST_DIGEST_S = 10.0, 86400.0
MAX_RECIPIENTS = 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_VARIABLE_RULE = "the name of an environment variable, such as CIS490_WEBHOOK_URL"
_SECRET_HINT = (
    "a manifest holds no secret: put it into a variable of the receiver's environment and name that here"
)
_ADDRESS = re.compile(r"[^\s@<>,;:\"'()\[\]\\]{1,100}@[A-Za-z0-9.-]{1,200}")
_ADDRESS_RULE = "an address such as lab@example.org"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Fa-f:.]{2,45}")
_MISPLACED = {
    "webhook_url": "name the variable that holds it: webhook_url_env = \"CIS490_WEBHOOK_URL\"",
    "webhook": "name the variable that holds it: webhook_url_env = \"CIS490_WEBHOOK_URL\"",
    "smtp_password": "name the variable that holds it: smtp_password_env = \"CIS490_SMTP_PASSWORD\"",
    "password": "name the variable that holds it: smtp_password_env = \"CIS490_SMTP_PASSWORD\"",
}  # fmt: skip


def read_notify(table: Table | None) -> Notify:
    """Whom to tell; nobody without the table."""
    if table is None:
        return Notify()
    table.reject_unknown(NOTIFY_KEYS, _MISPLACED)
    default = Notify()
    found = Notify(
        webhook_url_env=_variable(table, "webhook_url_env"),
        smtp_host=_matching(table, "smtp_host", _HOST, "a host name or address, without a port"),
        smtp_port=table.whole("smtp_port", default.smtp_port, 1, 65535),
        smtp_starttls=table.truth("smtp_starttls", default.smtp_starttls),
        smtp_user=table.text("smtp_user", None),
        smtp_password_env=_variable(table, "smtp_password_env"),
        mail_from=_matching(table, "mail_from", _ADDRESS, _ADDRESS_RULE),
        mail_to=_recipients(table),
        events=_events(table),
        digest_s=_digest(table),
    )
    if table.sound:
        _check_sense(table, found)
    return found


def _variable(table: Table, key: str) -> str | None:
    value = table.values.get(key)
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    if key in table.values:
        table.add(key, "is no variable's name", _VARIABLE_RULE, _SECRET_HINT)
    return None


def _matching(table: Table, key: str, pattern: re.Pattern[str], rule: str) -> str | None:
    value = table.values.get(key)
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    table.refuse(key, rule)
    return None


def _recipients(table: Table) -> tuple[str, ...]:
    value = table.values.get("mail_to")
    if isinstance(value, list) and 1 <= len(value) <= MAX_RECIPIENTS:
        for position, item in enumerate(value):
            if not isinstance(item, str) or _ADDRESS.fullmatch(item) is None:
                table.add_item("mail_to", position, "is no mail address", _ADDRESS_RULE)
        return tuple(item for item in value if isinstance(item, str))
    hint = "put it in brackets" if isinstance(value, str) else ""
    table.refuse("mail_to", f"a list of 1 to {MAX_RECIPIENTS} addresses", hint)
    return ()


def _events(table: Table) -> tuple[str, ...]:
    if "events" not in table.values:
        return NOTIFY_KINDS
    found = table.names("events", NOTIFY_KINDS)
    if table.values["events"] == []:
        table.add("events", "is an empty list", "at least one event", "leave it out for all of them")
    return found


def _digest(table: Table) -> float:
    default = Notify().digest_s
    value = table.number("digest_s", default, LEAST_DIGEST_S)
    if value > MOST_DIGEST_S:
        table.refuse("digest_s", f"at most {MOST_DIGEST_S:g}, which is a day")
    return value


def _check_sense(table: Table, found: Notify) -> None:
    """What belongs together is there together."""
    if found.webhook_url_env is None and found.smtp_host is None:
        hint = "leave [notify] out to tell nobody"
        table.add_whole(
            "notify names nowhere to send to",
            "webhook_url_env, or smtp_host with mail_from and mail_to",
            hint,
        )
    for key in ("mail_from", "mail_to"):
        if found.smtp_host is not None and not getattr(found, key):
            table.add_whole(f"notify.{key} is missing", "beside smtp_host: who writes, and to whom")
    for key in ("mail_from", "mail_to", "smtp_user", "smtp_port", "smtp_starttls"):
        if found.smtp_host is None and key in table.values:
            table.add(key, "stands without smtp_host", "smtp_host beside it: the server that takes mail")
    if (found.smtp_user is None) != (found.smtp_password_env is None):
        key = "smtp_user" if found.smtp_user is not None else "smtp_password_env"
        table.add(key, "stands alone", "smtp_user and smtp_password_env together")
    elif found.smtp_user is not None and not found.smtp_starttls:
        table.add(
            "smtp_starttls",
            "is false",
            "true where a password is sent",
            "else anybody on the way can read it",
        )
