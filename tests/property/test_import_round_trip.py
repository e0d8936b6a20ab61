"""Whatever numbers a table holds, they come back within half a step of what was asked to be kept."""

import tempfile
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cis490.episodes.arrays import from_payload
from cis490.episodes.dataset import iter_episodes
from cis490.progress import Meter
from collection.importing import description as descriptions
from collection.importing.errors import BadRows, RowFaults
from collection.importing.folder import import_folder
from collection.importing.reader import Block, CsvFile, Tally
from tests.factories.csv_folder import EMPTY, description

NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(-(10**9), 10**9, places=6).map(str),
    st.floats(-1e9, 1e9).map(repr),
    st.floats(-1e3, 1e3).map(lambda value: f"{value:.4e}"),
)


def imported(folder: Path, lines: list[str], text: str) -> tuple[list[int], list[list[int]]]:
    """(t_us, values) of the one episode that the lines make."""
    (folder / "csv").mkdir()
    (folder / "csv" / "a.csv").write_text("\n".join(lines) + "\n")
    (folder / "import.toml").write_text(text)
    rules = descriptions.load(folder / "import.toml")
    import_folder(
        folder / "csv",
        rules,
        folder / "out",
        None,
        lambda total: Meter("importing", EMPTY, total=total, now_s=lambda: 0.0),
        print,
    )
    ((_, meta, payload),) = iter_episodes(folder / "out")
    t_us, values = from_payload(meta, payload)
    return t_us.tolist(), values.tolist()


@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=40),
    decimals=st.integers(0, 6),
    odd=st.none() | st.integers(0, 39),
)
def test_every_value_comes_back_within_half_a_step(
    rows: list[tuple[str, str]], decimals: int, odd: int | None
) -> None:
    """`odd` puts quotes around a delimiter in one row, so that it takes the exact path and the others may not."""
    text = description(
        time="hz = 10",
        label='column = "what"\nsuspicious = ["a,b"]\nbenign = ["normal"]',
        episode='host = "a"\nfamily = "f"\nscaling = "plain"\nlicence = "CC0-1.0"',
        channels="\n\n".join(
            f'column = "{name}"\nname = "sys.{name}"\nunit = "u"\ndecimals = {decimals}' for name in "xy"
        ),
    )
    lines = [
        "x,y,what",
        *(f"{x},{y},{chr(34) + 'a,b' + chr(34) if n == odd else 'normal'}" for n, (x, y) in enumerate(rows)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        t_us, values = imported(Path(folder), lines, text)
    assert t_us == [n * 100_000 for n in range(len(rows))]
    half_a_step = Decimal(1) / 2 / 10**decimals
    for wanted, found in zip(rows, values, strict=True):
        for written, steps in zip(wanted, found, strict=True):
            # One part in 2**50: the number itself was rounded to a float64 on the way.
            slack = abs(Decimal(written)) / 2**50
            assert abs(Decimal(steps) / 10**decimals - Decimal(written)) <= half_a_step + slack


@given(st.text(alphabet="0123456789.,;-+eE\"'\n\r\t nax\0é", max_size=60))
def test_no_text_makes_the_reader_stumble(text: str) -> None:
    """It becomes rows or faults that say where; nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(b"t,load,what\n" + text.encode())
        (Path(folder) / "import.toml").write_text(description())
        rules = descriptions.load(Path(folder) / "import.toml")
        faults = RowFaults()
        refusal = ""
        blocks: list[Block] = []
        try:
            blocks += CsvFile(path, "a.csv", rules, faults, Tally()).blocks(lambda size: None)
        except BadRows as error:
            refusal = str(error)
    assert all(block.values.shape == (len(block), 1) for block in blocks)
    assert sum(map(len, blocks)) or faults.count or refusal.startswith("a.csv")
    assert all(fault.file == "a.csv" and fault.line >= 0 for fault in faults.shown)
