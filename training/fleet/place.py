"""Which receiver a command line talks to, and as whom: options, environment, or credentials that lie in their place.

A command without credentials pays for no part of them: what they need is imported where there are some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from training.fleet import credential_places
from training.fleet.exits import CREDENTIALS_VARIABLE, DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE, USAGE, Stop

if TYPE_CHECKING:
    from pathlib import Path

    from training.fleet.client import FleetClient

SOON_S = 7 * 86_400.0


class Place(NamedTuple):
    """Where to ask, and with which identity."""

    url: str
    folder: Path | None = None
    """Credentials; None: without a certificate."""
    source: str = f"${URL_VARIABLE}"
    """Where `url` was said, for a message about it."""


def place_of(url: str | None, folder: str | None, env: Mapping[str, str]) -> Place:
    """From `--url` and `--credentials` as given, else the environment, else what lies on this machine.

    An address that was given and no folder means: no certificate. Raises Stop for a folder that cannot be used.
    """
    given = url or env.get(URL_VARIABLE)
    source = "--url" if url else f"${URL_VARIABLE}"
    where = folder or env.get(CREDENTIALS_VARIABLE) or (None if given else credential_places.of_operator(env))
    if not where:
        return Place(given or DEFAULT_URL, None, source)
    from pathlib import Path

    from training.fleet import credentials

    if given:
        return Place(given, Path(where), source)
    try:
        return Place(
            credentials.read_about(Path(where)).url, Path(where), str(Path(where) / credentials.ABOUT)
        )
    except credentials.CredentialsError as error:
        raise _unusable(error) from error


def client_of(place: Place, token: str | None, timeout_s: float = 30.0) -> FleetClient:
    """Raises Stop for credentials that cannot be used, ValueError for an address."""
    from training.fleet.client import FleetClient

    if place.folder is None:
        return FleetClient(place.url, operator_token=token, timeout_s=timeout_s)
    from training.fleet.credentials import CredentialsError

    try:
        return FleetClient(place.url, operator_token=token, timeout_s=timeout_s, credentials=place.folder)
    except CredentialsError as error:
        raise _unusable(error) from error


def ends_soon(folder: Path, now_s: float) -> str | None:
    """A sentence when the certificate ends within a week, but has not ended; who uses it daily would not notice."""
    from training.fleet import credentials

    try:
        left_s = credentials.dates_in(folder).not_after_s - now_s
    except credentials.CredentialsError:
        return None
    if not 0 < left_s < SOON_S:
        return None
    days = int(left_s / 86_400)
    when = "in less than a day" if days == 0 else "in 1 day" if days == 1 else f"in {days} days"
    return f"your certificate ends {when}: python -m training.fleet.renewal --credentials {folder}"


def _unusable(error: Exception) -> Stop:
    """The end of a command whose credentials are no good."""
    return Stop(
        USAGE,
        f"--credentials: {error}",
        "  next: python -m training.fleet.join --operator   (with a token of: cis490-jobs operators add NAME)",
        f"        or leave them out: cis490-jobs --url {DEFAULT_URL} ...",
        error_code="E040",
    )


def token_of(folder: Path | None, env: Mapping[str, str]) -> str | None:
    """The operator token: of the environment, else of the credentials. Raises Stop when a header cannot carry it."""
    token, source = env.get(TOKEN_VARIABLE, "").strip(), f"${TOKEN_VARIABLE}"
    if not token and folder is not None:
        from training.fleet import credentials

        try:
            token, source = credentials.operator_token(folder) or "", str(folder / credentials.OPERATOR_TOKEN)
        except credentials.CredentialsError as error:
            raise _unusable(error) from error
    if not (token.isascii() and token.isprintable()) and token:
        at = next(at for at, char in enumerate(token) if not (char.isascii() and char.isprintable()))
        raise Stop(
            USAGE,
            f"{source}: character {at + 1} of {len(token)} is one that no header can carry; "
            "expected printable ASCII",
            f"  next: export {TOKEN_VARIABLE}=...   (set it anew, without quotes and line ends)",
            error_code="E008",
        )
    return token or None
