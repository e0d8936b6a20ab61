"""Notifications from a real receiver to real servers; and that no secret gets anywhere else."""

from __future__ import annotations

import logging
import queue
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cis490.ballast import Ballast
from cis490.clock import ManualClock
from cis490.logs import _LineFormatter
from tests.factories.command import run
from tests.factories.fleet import cpu_host
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from tests.factories.mail_and_hooks import Hook, mail_server, webhook
from tests.factories.processes import wait_until
from training.fleet import exits, notifier, notify_send
from training.fleet.notify import Message, Sign, Storm, made
from training.fleet.notify_send import Courier, Mail, NotSent, Webhook

ONE_JOB = 'name = "lab"\n[policy]\nmax_failures = 1\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
HOOK = '[notify]\nwebhook_url_env = "TEST_HOOK"\ndigest_s = 10\n'
CANARY = "canary-7f3a"
SIGN = Sign("failed", "gbt-oracle", "gbt-oracle has failed: x", "cis490-jobs show gbt-oracle", 5.0)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    with webhook() as found:
        monkeypatch.setenv("TEST_HOOK", f"http://127.0.0.1:{found.port}/services/{CANARY}?key={CANARY}")
        monkeypatch.setattr(notifier, "PACE_S", 0.01)
        monkeypatch.setattr(notifier, "LOOK_EVERY_S", 0.05)
        yield found


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Every log line, as it would be written."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(_LineFormatter().format(record))

    handler = Handler()
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.DEBUG)
    yield found
    logging.getLogger().removeHandler(handler)


def _fail(receiver: LiveReceiver) -> None:
    claimed = receiver.worker("POST", "/v1/job/claim", {"capability": {"cores": 4}}).body
    assert (
        receiver.worker("POST", f"/v1/job/{claimed['job_id']}/fail", {"error": "CUDA out of memory"}).status
        == 200
    )


def _events(body: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(item["kind"], item["subject"]) for item in body["events"]]


def test_a_job_that_fails_for_good_is_told_at_once_with_the_end_of_all_work(
    tmp_path: Path, hook: Hook
) -> None:
    with live_receiver(tmp_path, ONE_JOB + HOOK) as receiver:
        wait_until(lambda: receiver.coordinator.notifier._known is not None, "the first look")
        _fail(receiver)
        body = hook.next()
    assert _events(body) == [("failed", "gbt-oracle"), ("all_done", None)]
    assert body["fleet"] == "lab"
    assert (
        "gbt-oracle has failed on a: CUDA out of memory\n    next: cis490-jobs show gbt-oracle"
        in body["text"]
    )


def test_a_host_that_falls_silent_with_a_job_is_told_of(tmp_path: Path, hook: Hook) -> None:
    clock = ManualClock()
    with live_receiver(tmp_path, ONE_JOB + HOOK, clock=clock) as receiver:
        wait_until(lambda: receiver.coordinator.notifier._known is not None, "the first look")
        receiver.queue.claim("w", cpu_host())
        clock.advance(200.0)
        body = hook.next()
    assert _events(body) == [("host_lost", "w")]
    assert "it holds gbt-oracle" in body["text"]


def test_a_full_disk_is_told_of(tmp_path: Path, hook: Hook) -> None:
    ballast = Ballast(tmp_path / "ballast", size_bytes=4096)
    ballast.restore()
    with live_receiver(tmp_path, ONE_JOB + HOOK, ballast=ballast) as receiver:
        wait_until(lambda: receiver.coordinator.notifier._known is not None, "the first look")
        ballast.give_up()
        assert _events(hook.next()) == [("disk_low", None)]


def test_only_the_events_that_are_wished_for_are_told(tmp_path: Path, hook: Hook) -> None:
    with live_receiver(tmp_path, ONE_JOB + HOOK + 'events = ["all_done"]\n') as receiver:
        wait_until(lambda: receiver.coordinator.notifier._known is not None, "the first look")
        _fail(receiver)
        assert _events(hook.next()) == [("all_done", None)]


def test_a_reload_begins_and_ends_notifications(tmp_path: Path, hook: Hook) -> None:
    with live_receiver(tmp_path, ONE_JOB) as receiver:
        assert receiver.operator("/v1/notify/test").status == 409
        assert receiver.coordinator.events.bell is None
        receiver.manifest.write_text(ONE_JOB + HOOK, encoding="utf-8")
        assert receiver.operator("/v1/manifest/reload").status == 200
        answer = receiver.operator("/v1/notify/test").body
        assert answer == {"ok": True, "targets": [{"kind": "webhook", "ok": True, "error": None}]}
        assert "this is a test" in hook.next()["text"]
        receiver.manifest.write_text(ONE_JOB, encoding="utf-8")
        assert receiver.operator("/v1/manifest/reload").status == 200
        assert receiver.coordinator.events.bell is None


def test_a_test_message_says_for_each_place_what_is_wrong(
    tmp_path: Path, hook: Hook, lines: list[str]
) -> None:
    hook.statuses = [404]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        mail = f'smtp_host = "127.0.0.1"\nsmtp_port = {nobody.getsockname()[1]}\nmail_from = "a@b"\nmail_to = ["c@d"]\n'
        with live_receiver(tmp_path, ONE_JOB + HOOK + mail) as receiver:
            answer = receiver.operator("/v1/notify/test")
    assert answer.status == 200
    assert answer.body["ok"] is False
    by_kind = {target["kind"]: target["error"] for target in answer.body["targets"]}
    assert by_kind["webhook"] == "the webhook answered 404: is its address still valid?"
    assert "refused" in by_kind["smtp"]
    assert CANARY not in answer.raw.decode() + "".join(lines)


def test_the_command_sends_a_test_and_its_exit_code_says_whether_each_place_took_it(
    tmp_path: Path, hook: Hook
) -> None:
    with live_receiver(tmp_path, ONE_JOB + HOOK) as receiver:
        taken = run(receiver.url, "notify", "--test", token=TOKEN)
        assert (taken.code, taken.err) == (exits.OK, "")
        assert taken.out.splitlines()[1].split() == ["webhook", "sent"]
        hook.statuses = [404] * 2
        refused = run(receiver.url, "notify", "--test", token=TOKEN)
        assert refused.code == exits.REFUSED
        assert "is its address still valid?" in " ".join(refused.out.split())
        piped = run(receiver.url, "notify", "--test", token=TOKEN, terminal=False)
        assert [line.split("\t")[:2] for line in piped.out.splitlines()] == [
            ["PLACE", "STATE"],
            ["webhook", "FAILED"],
        ]
        assert CANARY not in refused.out + piped.out


def test_without_a_notify_table_the_command_says_where_to_write_one(tmp_path: Path) -> None:
    with live_receiver(tmp_path, ONE_JOB) as receiver:
        found = run(receiver.url, "notify", "--test", token=TOKEN)
    assert found.code == exits.REFUSED
    assert "[notify]" in found.err


def test_a_variable_that_is_not_set_is_said_and_the_receiver_serves(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_HOOK", raising=False)
    with live_receiver(tmp_path, ONE_JOB + HOOK) as receiver:
        answer = receiver.operator("/v1/notify/test").body
        assert "TEST_HOOK is not set" in answer["targets"][0]["error"]
    assert [line for line in lines if "event=notify.misconfigured" in line and "TEST_HOOK" in line]


def test_only_the_operator_may_send_a_test(tmp_path: Path, hook: Hook) -> None:
    with live_receiver(tmp_path, ONE_JOB + HOOK) as receiver:
        assert receiver.send("POST", "/v1/notify/test").status == 401


# -- the places


def test_a_message_is_tried_again_until_it_is_taken(hook: Hook, lines: list[str]) -> None:
    hook.statuses = [500, 503]
    place = Webhook(f"http://127.0.0.1:{hook.port}/{CANARY}")
    courier = Courier(place, Storm("lab", 300.0), pauses_s=(0.0, 0.0, 0.0))
    courier.tell(SIGN)
    assert _events(hook.next()) == [("failed", "gbt-oracle")]
    wait_until(lambda: any("event=notify.sent" in line for line in lines), "the log line")
    assert hook.tries == 3
    assert sum("event=notify.failed" in line for line in lines) == 2
    courier.close()


def test_what_no_try_could_send_goes_out_with_the_next_digest(hook: Hook) -> None:
    hook.statuses = [500] * 3
    courier = Courier(Webhook(f"http://127.0.0.1:{hook.port}/"), Storm("lab", 0.05), pauses_s=(0.0,))
    courier.tell(SIGN)
    assert _events(hook.next()) == [("failed", "gbt-oracle")]
    assert hook.tries == 4
    courier.close()


def test_a_redirect_is_not_followed(hook: Hook) -> None:
    hook.statuses = [302]
    with pytest.raises(NotSent, match="302: it points elsewhere"):
        Webhook(f"http://127.0.0.1:{hook.port}/{CANARY}").send(made("lab", [SIGN]))
    assert hook.got.empty()


@pytest.mark.parametrize(
    "url",
    [f"http://127.0.0.1:1/{CANARY}", f"http://no-such-host.invalid/{CANARY}", f"http://127.0.0.1:1/a b/{CANARY}\n",
     f"http://user:{CANARY}@127.0.0.1:1/", f"https://127.0.0.1:1/?k={CANARY}"],
)  # fmt: skip
def test_no_fault_of_a_webhook_tells_its_address(url: str, lines: list[str]) -> None:
    with pytest.raises(NotSent) as caught:
        Webhook(url).send(made("lab", [SIGN]))
    assert CANARY not in str(caught.value) + repr(Webhook(url))
    assert caught.value.__cause__ is None
    courier = Courier(Webhook(url), Storm("lab", 300.0), pauses_s=())
    courier.tell(SIGN)
    wait_until(lambda: any("event=notify.failed" in line for line in lines), "the log line")
    courier.close()
    assert CANARY not in "".join(lines)


def _mail(port: int, password: str | None = None, *, starttls: bool = False) -> Mail:
    user = None if password is None else "me"
    return Mail("127.0.0.1", port, starttls, user, password, "lab@lab.org", ("a@lab.org", "b@lab.org"))


def test_a_mail_has_its_cause_and_its_next_command() -> None:
    evil = Sign("failed", "x", "x failed\r\nBcc: all@lab.org\n.\nMAIL FROM:<z>", "cis490-jobs show x", 0.0)
    with mail_server() as box:
        _mail(box.port).send(made("lab", [SIGN]))
        letter = box.next()
        _mail(box.port).send(made("lab", [evil]))
        second = box.next()
    assert "Subject: [lab] gbt-oracle has failed: x" in letter
    assert "next: cis490-jobs show gbt-oracle" in letter
    assert "To: a@lab.org, b@lab.org" in letter
    assert "Auto-Submitted: auto-generated" in letter
    assert "\nBcc:" not in second.split("\r\n\r\n")[0], "a cause cannot add a header"
    assert [line for line in box.said if line.upper().startswith("RCPT")] == [
        "rcpt TO:<a@lab.org>",
        "rcpt TO:<b@lab.org>",
    ] * 2


def test_a_password_that_is_refused_is_in_no_message_even_if_the_server_repeats_it(lines: list[str]) -> None:
    with mail_server(login_answer="535 no: ECHO") as box, pytest.raises(NotSent) as caught:
        _mail(box.port, CANARY).send(made("lab", [SIGN]))
    said = str(caught.value)
    assert "535" in said
    assert notify_send.HIDDEN in said
    assert not any(secret in said for secret in _mail(1, CANARY)._secrets())
    assert CANARY not in repr(_mail(1, CANARY)) + "".join(lines)


def test_without_tls_no_password_is_sent_where_tls_is_wanted() -> None:
    with mail_server(login_answer="235 welcome") as box, pytest.raises(NotSent, match="STARTTLS"):
        _mail(box.port, CANARY, starttls=True).send(made("lab", [SIGN]))
    assert not [line for line in box.said if line.startswith("AUTH")]


def _certificate(folder: Path, name: str) -> Path:
    """A throw-away certificate for this name, its key in the same file."""
    path = folder / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-keyout", folder / "key.pem", "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (folder / "key.pem").read_bytes())
    return path


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None,
    reason="the openssl command is not installed, which makes the certificate",
)


@needs_openssl
def test_the_password_and_the_letter_travel_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(trusted := _certificate(tmp_path, "IP:127.0.0.1"))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with mail_server(login_answer="235 welcome", tls=tls) as box:
        _mail(box.port, CANARY, starttls=True).send(made("lab", [SIGN]))
        assert "next: cis490-jobs show gbt-oracle" in box.next()
    verbs = [line.split()[0].upper() for line in box.said]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


@needs_openssl
@pytest.mark.parametrize(("name", "is_trusted"), [("IP:127.0.0.1", False), ("DNS:mail.example.org", True)])
def test_a_mail_server_that_cannot_show_who_it_is_gets_no_password(
    name: str, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate := _certificate(tmp_path, name))
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        mail_server(login_answer="235 welcome", tls=tls) as box,
        pytest.raises(NotSent, match="certificate verify failed"),
    ):
        _mail(box.port, CANARY, starttls=True).send(made("lab", [SIGN]))
    assert [line.split()[0].upper() for line in box.said] == ["EHLO", "STARTTLS"]
    assert box.got.empty()


def test_a_storm_while_a_place_does_not_answer_is_counted_whole_and_logged_once(lines: list[str]) -> None:
    class Slow:
        kind = "slow"

        def __init__(self) -> None:
            self.got: queue.Queue[Message] = queue.Queue()
            self.go_on = threading.Event()

        def send(self, message: Message) -> None:
            self.got.put(message)
            assert self.go_on.wait(15)

    place, n = Slow(), 2 * notify_send.MOST_WAITING + 500
    courier = Courier(place, Storm("lab", 0.01))
    courier.tell(SIGN)
    assert len(place.got.get(timeout=15).signs) == 1
    for number in range(n):
        courier.tell(replace(SIGN, subject=f"job-{number}"))
    place.go_on.set()
    digest = place.got.get(timeout=15)
    courier.close()
    assert len(digest.signs) + digest.n_more == n
    assert sum("event=notify.dropped" in line for line in lines) == 1


def test_a_place_that_does_not_answer_holds_up_nobody(lines: list[str]) -> None:
    """`tell` returns; what no longer fits into the queue is dropped, with a line in the log."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        courier = Courier(
            Webhook(f"http://127.0.0.1:{mute.getsockname()[1]}/"), Storm("lab", 300.0), pauses_s=()
        )
        courier.tell(SIGN)
        connection, _ = mute.accept()  # it is sent now, and never answered
        for _ in range(notify_send.MOST_WAITING + 1):
            courier.tell(SIGN)
        courier.stop()
        connection.close()
    assert sum("event=notify.dropped" in line for line in lines) == 1
