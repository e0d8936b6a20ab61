"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

from training.trainer.process import one_blas_thread

# As in the trainer; and two pytest processes with two BLAS threads each wait for one another most of the time.
one_blas_thread()

# An example may take as long as it takes: a deadline on a busy machine finds no bugs, only its neighbours.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
