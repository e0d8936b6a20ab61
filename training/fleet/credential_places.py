"""Where the credentials of people lie. Light: a command that needs none finds out here, and loads nothing more."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

ABOUT, ROOT, IDENTITY, OPERATOR_TOKEN = "credentials.json", "root.pem", "identity.pem", "operator-token"
OF_THE_MACHINE = "/etc/cis490/operator"
"""Where the receiver's installer puts an operator's."""


def of_user(env: Mapping[str, str], *, system: str = sys.platform) -> str:
    """The folder in the own account."""
    home = env.get("HOME") or os.path.expanduser("~")
    if system == "win32":
        return os.path.join(env.get("APPDATA") or os.path.join(home, "AppData", "Roaming"), "cis490")
    return os.path.join(env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "cis490")


def of_operator(env: Mapping[str, str]) -> str | None:
    """The folder that a command line uses by itself: the machine's, else the user's; None without any.

    A folder that this user may not look into is none.
    """
    for folder in (OF_THE_MACHINE, of_user(env)):
        if all(os.access(os.path.join(folder, name), os.R_OK) for name in (ABOUT, IDENTITY)):
            return folder
    return None
