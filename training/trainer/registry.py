"""Models of other packages, found as entry points of the group `cis490.models`.

Such a package offers, in its `pyproject.toml`,

    [project.entry-points."cis490.models"]
    lstm = "lab_models.options:LSTM"

where `LSTM` is a `training.trainer.options.ModelOptions`: the options of the model, what it needs, and the
module that trains it (see `training.trainer.models.ModelModule`). The module of the table itself should import
nothing heavy: the receiver reads it too, to check manifests.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from training.trainer.options import ModelOptions, register

GROUP = "cis490.models"


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Register every model that an installed package offers, once per process; returns what is wrong with those
    that could not be taken, one sentence each. A faulty package never keeps the others from working."""
    return register_all(entry_points(group=GROUP))


def register_all(
    found: Iterable[EntryPoint], add: Callable[[ModelOptions], None] = register
) -> tuple[str, ...]:
    """`load_plugins` for given entry points, in the order of their names."""
    faults: list[str] = []
    for entry in sorted(found, key=lambda entry: (entry.name, entry.value)):
        plugin = _package(entry)
        try:
            model = entry.load()
            if not isinstance(model, ModelOptions):
                raise TypeError(f"found a {type(model).__name__}, expected a ModelOptions")
            if model.name != entry.name:
                raise ValueError(f"its model is named {model.name!r}; both names must agree")
            add(replace(model, plugin=plugin))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module raises must not stop a receiver
            faults.append(
                f"{plugin}: its model {entry.name!r} ({entry.value}) is left out: {error}; "
                "repair or uninstall that package"
            )
    return tuple(faults)


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
