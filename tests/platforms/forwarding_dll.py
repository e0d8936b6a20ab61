"""A Windows DLL that only forwards its functions to other DLLs, made without a compiler.

Wine 8 has no `bcryptprimitives.dll`, which the compiled part of `cryptography` asks for one function:
`ProcessPrng(buffer, size)`, random bytes. `advapi32.SystemFunction036` is the same under its older name. A forwarder
is an entry of the export table that points to a text `dll.function` (PE format specification, section ".edata").
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from pathlib import Path

BCRYPTPRIMITIVES = {"ProcessPrng": "advapi32.SystemFunction036"}

_FILE_ALIGNMENT, _PAGE = 0x200, 0x1000
_HEADERS = 0x200
"""Size of all headers in the file; the one section follows."""
_X86_64 = 0x8664
_EXECUTABLE, _LARGE_ADDRESSES, _DLL = 0x0002, 0x0020, 0x2000
_INITIALISED, _READABLE = 0x40, 0x40000000
_PE32_PLUS, _CONSOLE = 0x20B, 3
_NX_COMPATIBLE, _DYNAMIC_BASE = 0x0100, 0x0040


def forwarding_dll(name: str, forwards: Mapping[str, str]) -> bytes:
    """`name` as in `bcryptprimitives.dll`; `forwards`: exported function -> `otherdll.function`."""
    section = _exports(name, forwards, address=_PAGE)
    raw = section.ljust(-(-len(section) // _FILE_ALIGNMENT) * _FILE_ALIGNMENT, b"\0")
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    directories = [(0, 0)] * 16
    directories[0] = (_PAGE, len(section))
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(_PE32_PLUS, 14, 0, 0, len(raw), 0, 0, 0),  # no code, so no entry point
        *(0x180000000, _PAGE, _FILE_ALIGNMENT, 6, 0, 0, 0, 6, 0, 0),  # image base, alignments, Windows 6.0
        *(2 * _PAGE, _HEADERS, 0, _CONSOLE, _NX_COMPATIBLE | _DYNAMIC_BASE),
        *(0x100000, _PAGE, 0x100000, _PAGE, 0, len(directories)),
    ) + b"".join(struct.pack("<II", *each) for each in directories)
    coff = struct.pack(
        "<4sHHIIIHH",
        *(b"PE\0\0", _X86_64, 1, 0, 0, 0, len(optional), _EXECUTABLE | _LARGE_ADDRESSES | _DLL),
    )
    header = struct.pack(
        "<8sIIIIIIHHI",
        *(b".edata", len(section), _PAGE, len(raw), _HEADERS, 0, 0, 0, 0, _INITIALISED | _READABLE),
    )
    return (dos + coff + optional + header).ljust(_HEADERS, b"\0") + raw


def _exports(name: str, forwards: Mapping[str, str], address: int) -> bytes:
    """The section: export directory, addresses, names, ordinals, then the texts that these point to."""
    functions = sorted(forwards)
    n = len(functions)
    tables = 40 + 10 * n
    texts = bytearray()

    def place(text: str) -> int:
        at = address + tables + len(texts)
        texts.extend(text.encode("ascii") + b"\0")
        return at

    name_at = place(name)
    targets = [place(forwards[function]) for function in functions]
    names = [place(function) for function in functions]
    directory = struct.pack(
        "<IIHHIIIIIII",
        *(0, 0, 0, 0, name_at, 1, n, n, address + 40, address + 40 + 4 * n, address + 40 + 8 * n),
    )
    return (
        directory
        + struct.pack(f"<{n}I", *targets)
        + struct.pack(f"<{n}I", *names)
        + struct.pack(f"<{n}H", *range(n))
        + bytes(texts)
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(forwarding_dll("bcryptprimitives.dll", BCRYPTPRIMITIVES))
