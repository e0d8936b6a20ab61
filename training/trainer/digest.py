"""The digest of the trainer's own files: two hosts with the same digest train the same way."""

import hashlib
from pathlib import Path

_PARTS = (("training/trainer", "**/*.py"), ("cis490/episodes", "*.py"), ("cis490", "charts.py"))


def trainer_digest(root: Path) -> str:
    """sha256 (64 lower-case hex) over the sorted paths, relative to the checkout `root`, and contents of the
    Python files of the trainer, of the episode format and of the charts. Line ends count as LF, so that a checkout on
    Windows agrees.

    Raises FileNotFoundError when `root` is no checkout: an empty digest would make any two of those look
    equal.
    """
    files: dict[str, Path] = {}
    for folder, pattern in _PARTS:
        found = list((root / folder).glob(pattern))
        if not found:
            raise FileNotFoundError(f"{root / folder}: no Python files; is {root} the checkout?")
        files |= {path.relative_to(root).as_posix(): path for path in found}
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
