"""An episode survives being written and read, whatever its numbers."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cis490.episodes.arrays import from_payload, to_payload
from cis490.episodes.format import Channel, encode, parse
from tests.factories.minimal_episode import META

INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.int64]:
    """Growing time stamps in row 0, any int64 in the others."""
    samples, channels = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    times = sorted(draw(st.sets(st.integers(0, 2**62), min_size=samples, max_size=samples)))
    rows = [draw(st.lists(INT64, min_size=samples, max_size=samples)) for _ in range(channels)]
    return np.array([times, *rows], dtype=np.int64)


@settings(deadline=None)
@given(
    matrices(),
    st.dictionaries(st.from_regex(r"[a-z]{1,9}_ms", fullmatch=True), INT64.filter(lambda n: n > -(2**63))),
)
def test_reading_what_was_written_gives_the_same_episode(
    matrix: NDArray[np.int64], parameters: dict[str, int | str]
) -> None:
    channels = tuple(Channel(f"sys.c{n}", "things", "counter") for n in range(len(matrix) - 1))
    meta = replace(META, n_samples=matrix.shape[1], channels=channels, parameters=parameters)
    data = encode(meta, to_payload(matrix))
    found, payload = parse(data, "here")
    t_us, values = from_payload(found, payload)
    assert found == meta
    assert encode(found, payload) == data
    np.testing.assert_array_equal(t_us, matrix[0])
    np.testing.assert_array_equal(values, matrix[1:].T)
