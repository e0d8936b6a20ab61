"""sha256 digests and what counts as one."""

import hashlib
from pathlib import Path

import pytest

from cis490.digest import BLOCK_BYTES, is_digest, sha256_bytes, sha256_file, short

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_64_lower_case_hexadecimal_characters_are_a_digest() -> None:
    assert is_digest(EMPTY)


@pytest.mark.parametrize(
    "value",
    [
        *(None, 0, 1, True, b"0" * 64, ["0" * 64], "", EMPTY.upper(), EMPTY[:-1], EMPTY + "0", EMPTY + "\n"),
        *(
            "g" * 64,
            " " + EMPTY[1:],
            "../" + EMPTY[3:],
            "٠" * 64,
            "0x" + EMPTY[2:],
        ),  # ٠ is a digit, not an ASCII one
    ],
)
def test_anything_else_is_no_digest(value: object) -> None:
    assert not is_digest(value)


def test_digest_of_bytes_is_sha256() -> None:
    assert sha256_bytes(b"") == EMPTY


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_digest_of_a_file_is_that_of_its_content(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_digest_of_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "none")


def test_short_form_is_the_first_12_characters() -> None:
    assert short(EMPTY) == "e3b0c44298fc"
