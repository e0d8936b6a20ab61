"""When jobs start and end, out of past attempts; nothing where there is no basis."""

from __future__ import annotations

from training.fleet.estimates import History, Host, Running, Waiting, forecast, of_running

NOW = 1_000_000.0
GBT, GRU = ("gbt", "realistic"), ("gru", "realistic")


def history(*rows: tuple[str, str, str, float | None]) -> History:
    return History.of((*row, 512.0) for row in rows)


PAST = history(
    ("gbt", "realistic", "a", 100.0), ("gbt", "realistic", "a", 300.0), ("gbt", "realistic", "a", 200.0),
    ("gbt", "realistic", "b", 900.0),
)  # fmt: skip


def waiting(*names: str, model: str = "gbt", class_id: int = 1) -> list[Waiting]:
    return [Waiting(name, class_id, model, "realistic") for name in names]


def anybody(host: str, class_id: int) -> bool:
    return True


class TestHowLong:
    def test_it_is_the_median_of_the_same_kind_on_the_same_host(self) -> None:
        took = PAST.took(*GBT, "a")
        assert took is not None
        assert (took.seconds, took.n, took.basis) == (
            200.0,
            3,
            "median of 3 past attempts of gbt (realistic) on a",
        )

    def test_without_attempts_on_this_host_those_on_others_count(self) -> None:
        took = PAST.took(*GBT, "new")
        assert took is not None
        assert (took.seconds, took.basis) == (
            250.0,
            "median of 4 past attempts of gbt (realistic) on other hosts",
        )

    def test_without_a_past_attempt_of_the_kind_nothing_is_said(self) -> None:
        assert PAST.took(*GRU, "a") is None
        assert PAST.took("gbt", "oracle", "a") is None

    def test_an_attempt_whose_time_nobody_measured_does_not_count(self) -> None:
        assert history(("gbt", "realistic", "a", None)).took(*GBT, "a") is None


class TestWhatRuns:
    def test_it_ends_as_long_after_its_claim_as_others_took(self) -> None:
        found = of_running(PAST, Running("x", *GBT, "a", NOW - 50), NOW)
        assert found is not None
        assert found.finish_at == NOW + 150

    def test_one_that_takes_longer_is_compared_with_those_that_did_so_too(self) -> None:
        found = of_running(PAST, Running("x", *GBT, "a", NOW - 250), NOW)
        assert found is not None
        assert found.finish_at == NOW + 50
        assert "longer than this one" in found.basis

    def test_one_that_takes_longer_than_all_others_did_has_no_estimate(self) -> None:
        assert of_running(PAST, Running("x", *GBT, "a", NOW - 2000), NOW) is None


class TestForecast:
    def test_jobs_take_the_slots_in_their_order(self) -> None:
        found = forecast([Host("a", 1)], [], waiting("x", "y"), anybody, PAST, NOW)
        assert (found.jobs["x"].start_at, found.jobs["x"].finish_at) == (NOW, NOW + 200)
        assert found.jobs["y"].start_at == NOW + 200
        assert found.done_at == NOW + 400
        assert found.jobs["x"].basis.startswith("a is free; median of 3 past attempts")

    def test_a_busy_slot_is_free_when_its_job_is_expected_to_end(self) -> None:
        found = forecast(
            [Host("a", 1)], [Running("r", *GBT, "a", NOW - 50)], waiting("x"), anybody, PAST, NOW
        )
        assert found.jobs["x"].start_at == NOW + 150
        assert found.jobs["x"].basis.startswith("a is expected to be free then")

    def test_a_slot_whose_job_has_no_basis_is_never_free(self) -> None:
        running = [Running("r", *GRU, "a", NOW)]
        found = forecast([Host("a", 1)], running, waiting("x"), anybody, PAST, NOW)
        assert found.jobs == {}
        assert found.done_at is None

    def test_of_a_job_without_a_basis_only_the_start_is_known_and_the_end_of_all_is_not(self) -> None:
        found = forecast([Host("a", 1)], [], waiting("x", model="gru"), anybody, PAST, NOW)
        assert (found.jobs["x"].start_at, found.jobs["x"].finish_at) == (NOW, None)
        assert found.done_at is None

    def test_a_job_that_no_host_may_run_has_no_estimate(self) -> None:
        jobs = [*waiting("stuck", class_id=2), *waiting("x")]
        found = forecast([Host("a", 1)], [], jobs, lambda _, class_id: class_id == 1, PAST, NOW)
        assert set(found.jobs) == {"x"}
        assert found.done_at is None

    def test_hosts_work_side_by_side_and_each_as_fast_as_it_is(self) -> None:
        found = forecast([Host("a", 1), Host("b", 1)], [], waiting("x", "y", "z"), anybody, PAST, NOW)
        assert found.jobs["z"].start_at == NOW + 200, "a is free again long before b"
        assert found.done_at == NOW + 900

    def test_it_stops_at_the_job_that_is_asked_for(self) -> None:
        found = forecast([Host("a", 1)], [], waiting("x", "y", "z"), anybody, PAST, NOW, until="y")
        assert set(found.jobs) == {"x", "y"}


class TestPeaks:
    def test_a_minimum_above_what_past_attempts_used_looks_safe(self) -> None:
        peaks = PAST.peaks(*GBT)
        assert peaks.note({"min_ram_gib": 8.0}) == (
            "4 past attempts of this kind peaked at 0.5 GiB of RAM, so 8 looks safe"
        )
        assert peaks.note({"min_ram_gib": 0.25}).endswith("so 0.25 does not look safe")

    def test_without_data_nothing_is_said(self) -> None:
        assert PAST.peaks(*GRU).note({"min_ram_gib": 8.0}) == ""
        assert PAST.peaks(*GBT).note({"min_vram_gib": 8.0}) == ""
