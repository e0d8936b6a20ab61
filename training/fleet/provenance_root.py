"""Which root certificate the signed records are checked with on this machine.

It never comes from the record or from the receiver: whoever made those up would have brought a root of his own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from training.fleet import credentials
from training.fleet.exits import CREDENTIALS_VARIABLE, REFUSED, USAGE, Stop
from training.fleet.tables import safe

if TYPE_CHECKING:
    from cryptography import x509

HINT = "the receiver's is in its --ca-dir: copy it by a way that you trust"


def known_root(folder: str | None, env: Mapping[str, str]) -> Path | None:
    """The root of the credentials that `--credentials`, the environment or this user's folder name; None without."""
    named = folder or env.get(CREDENTIALS_VARIABLE)
    found = Path(named) if named else credentials.operators_folder(env)
    return None if found is None else found / credentials.ROOT


def read_root(path: Path, command: str) -> x509.Certificate:
    """The certificate in the file. Raises Stop, with `command` as what to type."""
    try:
        from cis490.pki.certificates import PkiError, load_certificates
    except ModuleNotFoundError as fault:
        raise Stop(
            REFUSED,
            f"a signature cannot be checked here: the Python module {fault.name} is missing",
            "  next: python -m pip install cryptography",
            error_code="E009",
        ) from fault
    try:
        return load_certificates(path.read_bytes())[0]
    except (OSError, PkiError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else fault
        raise Stop(
            USAGE,
            f"the lab's root certificate {safe(str(path))} cannot be read: {safe(str(why))}",
            f"  next: {command} --root root.pem   ({HINT})",
            error_code="E063",
        ) from fault
