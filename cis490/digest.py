"""sha256 digests, always written as 64 lower-case hexadecimal characters."""

import hashlib
import re
from pathlib import Path
from typing import NewType, TypeGuard

Digest = NewType("Digest", str)

BLOCK_BYTES = 1024 * 1024
_PATTERN = re.compile(r"[0-9a-f]{64}")
_SHORT_CHARS = 12


def is_digest(value: object) -> TypeGuard[Digest]:
    """Whether `value` is a string of exactly 64 lower-case hexadecimal characters."""
    return isinstance(value, str) and _PATTERN.fullmatch(value) is not None


def sha256_bytes(data: bytes) -> Digest:
    """Digest of `data`."""
    return Digest(hashlib.sha256(data).hexdigest())


def sha256_file(path: Path) -> Digest:
    """Digest of a file's content, read in 1 MiB blocks. Raises OSError as `open` does."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
    return Digest(state.hexdigest())


def short(digest: str) -> str:
    """The first 12 characters: enough for a person to tell two digests apart, never to look one up."""
    return digest[:_SHORT_CHARS]
