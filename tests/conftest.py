"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# An example may take as long as it takes: a deadline on a busy machine finds no bugs, only its neighbours.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
