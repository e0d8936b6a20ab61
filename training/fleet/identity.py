"""What makes a job that job: the canonical JSON of its six identity fields, and the sha256 of it. Pure.

Two spellings of the same value give the same bytes, so that an edit which changes nothing renames no job:
keys are sorted, an integral number is written as an integer (`1.0` and `1e0` as `1`, `-0.0` as `0`), any
other float in Python's shortest form that reads back equal, and every text in ASCII with `\\u` escapes. The order of a
list counts. The form never changes once jobs exist: golden ids stand in the tests.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping

from training.trainer.options import HyperError, identity_hyper

_MAX_DEPTH = 32
_MAX_INT_BITS = 1024
"""As many as the largest float has; a longer number is a mistake, and costly to write out."""


class IdentityError(ValueError):
    """A value that has no canonical form, or a hyper table that does not fit its model."""


def canonical_json(value: object) -> bytes:
    """The one spelling of a value made of objects, lists, texts, numbers and truth values.

    Raises IdentityError for everything else: NaN and infinities, None, dates, keys that are no text, and
    structures deeper than 32 levels.
    """
    plain = _plain(value, 0)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def job_id(
    *,
    model: str,
    mode: str,
    hyper: Mapping[str, object],
    split_recipe: str,
    train_hosts: Iterable[str],
    seed: int,
) -> str:
    """The job's id, 64 hex digits.

    A hyper key that stands at its option's `id_default` is left out, and `train_hosts` counts as a set.
    Raises IdentityError for a model that is not known and for a hyper table that does not fit it.
    """
    try:
        named_hyper = identity_hyper(model, hyper)
    except KeyError:
        raise IdentityError(f"a job's model is {model!r}, which is not known") from None
    except HyperError as error:
        raise IdentityError(f"no job id without a valid hyper table: {error}") from None
    identity = {
        "model": model,
        "mode": mode,
        "hyper": named_hyper,
        "split_recipe": split_recipe,
        "train_hosts": sorted(set(train_hosts)),
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def _plain(value: object, depth: int) -> object:
    """The value with one spelling per number, ready for `json.dumps`."""
    if depth > _MAX_DEPTH:
        raise IdentityError(f"a value is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    raise IdentityError(f"a {type(value).__name__} has no canonical form")


def _number(value: int | float) -> int | float:
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise IdentityError(f"a whole number of {value.bit_length()} bits is too big")
        return int(value)
    if not math.isfinite(value):
        raise IdentityError(f"{value} has no canonical form")
    return int(value) if value.is_integer() else float(value)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise IdentityError(f"a key is a {type(key).__name__}, not a text")
    return key
