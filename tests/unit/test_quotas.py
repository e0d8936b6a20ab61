"""How much a host may ask for: what a worker in order never meets, and what stops one that is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.fleet.quotas import DAY_S, HOUR_S, Bucket, Day, Limits, Quotas

SMALL = Limits(requests_per_min=60, uploads_at_once=2, bytes_per_day=1000)


def test_as_many_requests_as_a_minute_allows_may_come_in_one_go_and_no_more() -> None:
    quotas = Quotas(SMALL)
    assert [quotas.request("a", 5.0) for _ in range(60)] == [None] * 60
    refused = quotas.request("a", 5.0)
    assert refused is not None
    assert (refused.quota, refused.status, refused.retry_s) == ("requests", 429, 1)


def test_after_the_seconds_that_were_named_the_request_passes() -> None:
    quotas = Quotas(SMALL)
    for _ in range(60):
        quotas.request("a", 5.0)
    refused = quotas.request("a", 5.0)
    assert refused is not None
    assert refused.retry_s is not None
    assert quotas.request("a", 5.0 + refused.retry_s) is None


def test_one_host_uses_up_nothing_of_another() -> None:
    quotas = Quotas(SMALL)
    for _ in range(100):
        quotas.request("a", 5.0)
    assert quotas.request("b", 5.0) is None


def test_a_worker_with_four_slots_never_meets_a_quota() -> None:
    """An hour of logs every second, heartbeats every 30 s and claims that are answered at once, then four ends at the
    same moment with the most that a log's last words may be (64 requests each), and four uploads of 1 GiB."""
    quotas = Quotas()
    for second in range(3600):
        requests = 4 + (4 if second % 30 == 0 else 0) + (4 if second % 5 == 0 else 0)
        assert all(quotas.request("a", float(second)) is None for _ in range(requests))
    assert all(quotas.request("a", 3600.0) is None for _ in range(4 * 64 + 4 * 3))
    assert all(quotas.begin_upload("a", 2**30, 3600.0) is None for _ in range(4))


@given(
    st.lists(st.floats(0, 300), min_size=1, max_size=200),
    st.integers(1, 50),
)
def test_no_window_of_time_lets_through_more_than_a_full_bucket_and_what_it_gains(
    pauses: list[float], size: int
) -> None:
    bucket, now_s, passed = Bucket(size, 0.0), 0.0, []
    for pause in pauses:
        now_s += pause
        if bucket.take(now_s) == 0.0:
            passed.append(now_s)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= size + (passed[last] - start) * size / 60.0 + 1e-6


def test_a_clock_that_stands_still_gives_no_tokens() -> None:
    bucket = Bucket(1, 10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(10.0) == 60.0


class TestUploads:
    def test_one_more_than_are_allowed_at_once_waits(self) -> None:
        quotas = Quotas(SMALL)
        assert quotas.begin_upload("a", 1, 0.0) is None
        assert quotas.begin_upload("a", 1, 0.0) is None
        refused = quotas.begin_upload("a", 1, 0.0)
        assert refused is not None
        assert (refused.quota, refused.status) == ("uploads", 429)

    def test_one_that_has_ended_makes_room(self) -> None:
        quotas = Quotas(SMALL)
        quotas.begin_upload("a", 1, 0.0)
        quotas.begin_upload("a", 1, 0.0)
        quotas.end_upload("a", 1, 1, 0.0)
        assert quotas.begin_upload("a", 1, 0.0) is None

    def test_bytes_under_way_count_as_announced_and_afterwards_as_received(self) -> None:
        quotas = Quotas(SMALL)
        assert quotas.begin_upload("a", 900, 0.0) is None
        assert quotas.begin_upload("a", 200, 0.0) is not None
        quotas.end_upload("a", 900, 100, 0.0)  # it broke off
        assert quotas.begin_upload("a", 900, 0.0) is None

    def test_what_is_over_the_days_bytes_may_come_again_when_it_is_told_to(self) -> None:
        quotas = Quotas(SMALL)
        quotas.begin_upload("a", 800, 1000.0)
        quotas.end_upload("a", 800, 800, 1000.0)
        refused = quotas.begin_upload("a", 300, 2000.0)
        assert refused is not None
        assert refused.quota == "bytes"
        assert refused.retry_s is not None
        assert quotas.begin_upload("a", 300, 2000.0 + refused.retry_s - 1) is not None
        assert quotas.begin_upload("a", 300, 2000.0 + refused.retry_s) is None

    def test_it_may_take_the_end_of_more_than_one_hour_until_there_is_room(self) -> None:
        quotas = Quotas(SMALL)
        quotas.load([("a", 600, 1800.0), ("a", 300, 2 * 3600.0 + 1800.0)], now_s=3 * 3600.0)
        refused = quotas.begin_upload("a", 800, 3 * 3600.0)
        assert refused is not None
        assert refused.retry_s is not None
        assert quotas.begin_upload("a", 800, 3 * 3600.0 + refused.retry_s - 1) is not None
        assert quotas.begin_upload("a", 800, 3 * 3600.0 + refused.retry_s) is None

    def test_one_larger_than_a_days_bytes_is_refused_for_good(self) -> None:
        refused = Quotas(SMALL).begin_upload("a", 1001, 0.0)
        assert refused is not None
        assert (refused.status, refused.retry_s) == (413, None)

    def test_what_was_uploaded_before_a_restart_counts(self) -> None:
        quotas = Quotas(SMALL)
        quotas.load([("a", 600, 3600.0), ("a", 300, 60.0), ("b", 1, 0.0)], now_s=50.0)
        assert quotas.begin_upload("a", 200, 50.0) is not None
        assert quotas.begin_upload("b", 200, 50.0) is None


@given(
    st.lists(st.tuples(st.floats(0, 2 * DAY_S), st.integers(0, 1000)), max_size=60), st.floats(0, 3 * DAY_S)
)
def test_a_day_counts_all_of_the_last_24_hours_and_nothing_older_than_25(
    uploads: list[tuple[float, int]], at_s: float
) -> None:
    uploads = sorted(one for one in uploads if one[0] <= at_s)
    day = Day()
    for then_s, size in uploads:
        day.add(size, then_s)
    used = day.used(at_s)
    assert used >= sum(size for then_s, size in uploads if then_s > at_s - DAY_S)
    assert used <= sum(size for then_s, size in uploads if then_s > at_s - DAY_S - HOUR_S)


def test_refusals_name_the_option_that_sets_the_limit() -> None:
    quotas = Quotas(Limits(1, 1, 10))
    quotas.request("a", 0.0)
    first = quotas.request("a", 0.0)
    quotas.begin_upload("a", 6, 0.0)
    second = quotas.begin_upload("a", 1, 0.0)
    quotas.end_upload("a", 6, 6, 0.0)
    third = quotas.begin_upload("a", 6, 0.0)
    texts = [one.error for one in (first, second, third) if one is not None]
    options = ("--host-requests-per-min", "--host-uploads-at-once", "--host-bytes-per-day")
    assert [option in text for option, text in zip(options, texts, strict=True)] == [True] * 3
