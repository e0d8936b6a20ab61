"""`GET /v1/events` and `GET /v1/audit` of a real receiver, as a client sees them."""

from __future__ import annotations

import http.client
import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.factories.fleet import cpu_host, job, job_id, manifest
from tests.factories.live_receiver import LiveReceiver, live_receiver
from tests.factories.processes import wait_until
from training.fleet import event_routes, event_stream
from training.fleet.client import FleetClient, Refused
from training.fleet.sse import StreamedEvent

MANIFEST = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST) as running:
        yield running


@pytest.fixture(autouse=True)
def short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come at once is an error, and not a test that hangs."""
    monkeypatch.setattr("training.fleet.client.EVENT_SILENCE_S", 8.0)


@pytest.fixture
def client(receiver: LiveReceiver) -> FleetClient:
    return FleetClient(receiver.url, operator_token="operator-token-of-this-test")


def _told(stream: Iterator[StreamedEvent], n: int) -> list[tuple[str, int | None]]:
    return [(event.kind, event.seq) for event in itertools.islice(stream, n)]


@contextmanager
def _raw(receiver: LiveReceiver, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)
    connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    response = connection.getresponse()
    yield response
    response.close()
    connection.close()


def _drains(receiver: LiveReceiver, n: int) -> None:
    """`n` events of one host that has called."""
    receiver.queue.claim("w", cpu_host(models=[]))
    verbs = itertools.cycle(("drain", "undrain"))
    for verb in itertools.islice(verbs, n):
        assert receiver.operator(f"/v1/host/w/{verb}").status == 200


def test_a_stream_begins_with_its_place_and_goes_on_with_what_happens(
    receiver: LiveReceiver, client: FleetClient
) -> None:
    stream = client.events()
    hello = next(stream)
    assert (hello.kind, hello.seq, hello.data["seq"]) == ("hello", 1, 1)
    _drains(receiver, 1)
    drained = next(stream)
    assert (drained.kind, drained.seq) == ("host", 2)
    assert drained.data["text"] == "w is given no more jobs: drained by the operator"
    assert {"seq", "at", "actor", "event", "job_id", "name", "host", "from", "to", "epoch", "detail"} <= set(
        drained.data
    )
    stream.close()


def test_what_was_missed_comes_first_and_once(receiver: LiveReceiver, client: FleetClient) -> None:
    _drains(receiver, 4)
    stream = client.events(after=2)
    assert _told(stream, 4) == [("hello", 2), ("host", 3), ("host", 4), ("host", 5)]
    assert receiver.operator("/v1/host/w/drain").status == 200
    assert _told(stream, 1) == [("host", 6)]
    stream.close()


def test_the_header_of_a_browser_that_comes_back_wins_over_its_address(receiver: LiveReceiver) -> None:
    _drains(receiver, 4)
    with _raw(receiver, "/v1/events?after=1", Last_Event_ID="4") as response:
        lines = [response.readline() for _ in range(9)]
    assert b"id: 4\n" in lines
    assert b"id: 5\n" in lines
    assert b"id: 3\n" not in lines


def test_a_rolled_back_change_is_never_told(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events()
    next(stream)

    def half() -> None:
        receiver.queue.audit_add("test", "half", job_id("x"), "", "", 0)
        raise LookupError("and no further")

    receiver.queue.run_batch([half])
    _drains(receiver, 1)
    assert [event.data["event"] for event in itertools.islice(stream, 1)] == ["drain"]
    stream.close()


def test_a_reload_that_changes_something_is_told_once(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events()
    next(stream)
    receiver.manifest.write_text(MANIFEST + '[[jobs]]\nmodel = "mlp"\nmode = "oracle"\n', encoding="utf-8")
    for _ in range(2):
        assert receiver.operator("/v1/manifest/reload").status == 200
    _drains(receiver, 1)
    told = [(event.kind, event.data["text"]) for event in itertools.islice(stream, 3)]
    assert told == [
        ("job", "mlp-oracle was added by the manifest"),
        ("manifest", "the manifest was put in force: 1 added"),
        ("host", "w is given no more jobs: drained by the operator"),
    ]
    stream.close()


def test_filters_by_kind_job_and_host(receiver: LiveReceiver, client: FleetClient) -> None:
    with ExitStack() as stack:
        streams = [
            client.events(after=0, kinds=("host", "progress")),
            client.events(after=0, job="gbt-realistic"),
            client.events(after=0, host="w", kinds=("job",)),
        ]
        for stream in streams:
            stack.callback(stream.close)
            assert next(stream).kind == "hello"
        _drains(receiver, 2)
        claimed = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 1}}, host="w").body
        point = {"job_id": claimed["job_id"], "name": claimed["name"], "step": 3}
        receiver.coordinator.events.publish_threadsafe("progress", point)
        hosts, one_job, of_host = streams
        # a fleeting event may overtake a durable one, which is read back from the disk first
        assert sorted(_told(hosts, 3), key=str) == [("host", 2), ("host", 3), ("progress", None)]
        assert sorted(_told(one_job, 3), key=str) == [("job", 1), ("job", 4), ("progress", None)]
        assert _told(of_host, 1) == [("job", 4)]


def test_ephemeral_events_are_not_kept(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events()
    next(stream)
    receiver.coordinator.events.publish_threadsafe("usage", {"host": "w"})
    assert _told(stream, 1) == [("usage", None)]
    stream.close()
    again = client.events(after=0)
    assert _told(again, 2) == [("hello", 0), ("job", 1)]
    again.close()


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", "9" * 40, "\u0661", "1,2", "0x10"])
def test_an_event_number_that_is_none_is_400(receiver: LiveReceiver, value: str) -> None:
    for path, headers in (
        ("/v1/events", {"Last-Event-ID": value.encode().decode("latin-1")}),
        (f"/v1/audit?after={value}" if value.isascii() else "/v1/audit?after=%D9%A1", {}),
        (f"/v1/events?after={value}" if value.isascii() else "/v1/events?after=%D9%A1", {}),
    ):
        answer = receiver.send("GET", path, headers=headers)
        assert answer.status == 400
        assert "event number" in answer.body["error"]


@pytest.mark.parametrize("query", ["kind=", "kind=jobs", "kind=job,,x", "kind=hello"])
def test_an_unknown_kind_is_400_with_those_that_are_known(receiver: LiveReceiver, query: str) -> None:
    answer = receiver.send("GET", f"/v1/events?{query}")
    assert answer.status == 400
    assert "job, host, manifest, fleet, progress, usage, log" in answer.body["error"]


def test_a_number_from_another_database_resets(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events(after=900)
    hello, reset = itertools.islice(stream, 2)
    assert (hello.kind, hello.seq, reset.kind, reset.seq) == ("hello", 1, "reset", 1)
    assert "900" in reset.data["reason"]
    _drains(receiver, 1)
    assert _told(stream, 1) == [("host", 2)], "and the stream goes on from now"
    stream.close()


def test_who_is_too_far_behind_or_before_what_is_kept_resets(
    receiver: LiveReceiver, client: FleetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_routes, "MAX_REPLAY", 3)
    _drains(receiver, 6)
    stream = client.events(after=1)
    assert _told(stream, 2) == [("hello", 7), ("reset", 7)]
    stream.close()
    with receiver.queue.atomic():
        receiver.queue._connection.execute("DELETE FROM audit WHERE seq = 5")
    near, far = client.events(after=5), client.events(after=4)
    assert _told(near, 2) == [("hello", 5), ("host", 6)]
    assert _told(far, 2) == [("hello", 7), ("reset", 7)], (
        "what retention removed is a gap, though older rows stay"
    )
    near.close()
    far.close()


def test_a_client_that_hangs_up_leaves_nothing_behind(receiver: LiveReceiver, client: FleetClient) -> None:
    streams = [client.events() for _ in range(5)]
    for stream in streams:
        next(stream)
    assert len(receiver.coordinator.events) == receiver.coordinator.event_streams == 5
    for stream in streams:
        stream.close()
    wait_until(lambda: receiver.coordinator.event_streams == 0, "the streams to end")
    assert len(receiver.coordinator.events) == 0
    assert not receiver.coordinator.events.wanted


def test_too_many_streams_are_429_with_a_time_to_come_back(
    receiver: LiveReceiver, client: FleetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_routes, "MAX_STREAMS", 1)
    stream = client.events()
    next(stream)
    answer = receiver.send("GET", "/v1/events")
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")
    stream.close()
    wait_until(lambda: receiver.coordinator.event_streams == 0, "the stream to end")
    again = client.events()
    assert next(again).kind == "hello"
    again.close()


def test_a_quiet_stream_says_that_it_lives(receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.01)
    with _raw(receiver, "/v1/events") as response:
        assert b": still here\n" in [response.readline() for _ in range(9)]


def _reads_nothing(receiver: LiveReceiver) -> socket.socket:
    """A client that asks for events and then never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", receiver.port))
    client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: receiver.coordinator.event_streams == 1, "a stream")
    return client


def _floods(receiver: LiveReceiver, megabytes: int = 16) -> None:
    """More than all buffers on the way hold, as events that are kept."""
    for _ in range(megabytes * 2):
        with receiver.queue.atomic():
            for _ in range(50):
                receiver.queue.audit_add("test", "flood", job_id("x"), "", "", 0, "x" * 10_000)


def test_a_reader_that_takes_nothing_is_hung_up_on(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STALL_S", 0.2)
    with _reads_nothing(receiver):
        _floods(receiver)
        wait_until(lambda: receiver.coordinator.event_streams == 0, "the stream to be given up")
    assert len(receiver.coordinator.events) == 0


@pytest.mark.slow
def test_a_reader_that_is_too_slow_is_told_so_and_misses_nothing_by_asking_again(
    receiver: LiveReceiver, client: FleetClient
) -> None:
    with _reads_nothing(receiver) as slow:
        (listener,) = receiver.coordinator.events._listeners
        _floods(receiver, megabytes=40)
        wait_until(lambda: listener.behind, "the queue to overflow")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += slow.recv(1 << 20)
    assert b"event: reset" in received[-500:]
    last = int(received.rpartition(b"id: ")[2].split(b"\n")[0])
    stream = client.events(after=last)
    assert _told(stream, 2) == [("hello", last), ("job", last + 1)]
    stream.close()


def test_a_reader_that_takes_nothing_does_not_hold_up_the_end(receiver: LiveReceiver) -> None:
    with _reads_nothing(receiver):
        _floods(receiver)
        receiver.coordinator.events.close_threadsafe()
        wait_until(lambda: receiver.coordinator.event_streams == 0, "the stream to end")


def test_the_end_of_the_receiver_ends_a_stream_in_order(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events()
    next(stream)
    receiver.coordinator.events.close_threadsafe()
    assert list(stream) == []


def test_follow_goes_on_where_a_broken_stream_ended(tmp_path: Path) -> None:
    pauses: list[float] = []
    with live_receiver(tmp_path, MANIFEST) as receiver:
        stream = FleetClient(receiver.url).follow(after=0, sleep=pauses.append, random01=lambda: 0.0)
        assert _told(stream, 2) == [("hello", 0), ("job", 1)]
        receiver.coordinator.events.close_threadsafe()
        assert next(stream).kind == "down"
        receiver.coordinator.events._over = False
        _drains(receiver, 1)
        assert _told(stream, 2) == [("hello", 1), ("host", 2)]
        stream.close()
    assert pauses == [0.0]


def test_follow_gives_up_when_asking_again_is_of_no_use(client: FleetClient) -> None:
    with pytest.raises(Refused, match="kind="):
        next(client.follow(kinds=["nonsense"]))


def test_something_that_is_no_receiver_is_said_to_be_none(receiver: LiveReceiver) -> None:
    with pytest.raises(Refused, match="404"):
        next(FleetClient(f"{receiver.url}/nowhere").events())


# -- the audit trail as a list


def test_the_newest_page_comes_first_and_oldest_first_within(
    receiver: LiveReceiver, client: FleetClient
) -> None:
    _drains(receiver, 6)
    page = client.audit(limit=3)
    assert [event["seq"] for event in page["events"]] == [5, 6, 7]
    assert (page["first_seq"], page["last_seq"], page["more"]) == (1, 7, True)
    before = client.audit(limit=4, before=5)
    assert ([event["seq"] for event in before["events"]], before["more"]) == ([1, 2, 3, 4], False)


def test_pages_after_a_number_walk_to_the_end(receiver: LiveReceiver, client: FleetClient) -> None:
    _drains(receiver, 6)
    seen, more, after = [], True, 0
    while more:
        page = client.audit(after=after, limit=2)
        seen += [event["seq"] for event in page["events"]]
        after, more = seen[-1], page["more"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_the_list_is_filtered_by_job_host_and_event(receiver: LiveReceiver, client: FleetClient) -> None:
    _drains(receiver, 3)
    receiver.operator("/v1/host/w/undrain")
    claimed = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 1}}, host="w").body
    by = {
        "job": client.audit(job=claimed["job_id"]), "name": client.audit(job="gbt-realistic"),
        "host": client.audit(host="w"), "event": client.audit(event="undrain"), "none": client.audit(host="v"),
    }  # fmt: skip
    assert {key: [event["event"] for event in page["events"]] for key, page in by.items()} == {
        "job": ["reload", "claim"], "name": ["reload", "claim"],
        "host": ["drain", "undrain", "drain", "undrain", "claim"], "event": ["undrain", "undrain"], "none": [],
    }  # fmt: skip


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1"])
def test_a_limit_out_of_range_is_400(receiver: LiveReceiver, limit: str) -> None:
    assert receiver.send("GET", f"/v1/audit?limit={limit}").status == 400


def test_a_manifest_with_many_jobs_is_told_whole(receiver: LiveReceiver, client: FleetClient) -> None:
    stream = client.events(kinds=("job",))
    next(stream)
    receiver.queue.apply_manifest(manifest(*(job(f"j{n}") for n in range(1500))))
    names = [
        event.data["name"] for event in itertools.islice(stream, 1501) if event.data["detail"] == "added"
    ]
    assert names == [f"j{n}" for n in range(1500)]
    stream.close()
