"""`POST /v1/manifest/plan` and a reload bound to it, against the live receiver."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cis490.clock import ManualClock
from tests.factories.command import run
from tests.factories.fleet import cpu_host
from tests.factories.live_receiver import TOKEN, LiveReceiver, live_receiver
from training.fleet import exits
from training.fleet.plan import KEPT

HOSTS = '[[hosts]]\nname = "a"\n\n[[hosts]]\nname = "b"\ndeny_jobs = ["mlp"]\n'
GBT = '\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
MLP = '\n[[jobs]]\nmodel = "mlp"\nmode = "oracle"\n'
BEFORE = HOSTS + GBT + MLP
AFTER = HOSTS.replace('["mlp"]', "[]") + GBT + "priority = 5\n" + MLP + "seed = 7\n"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, BEFORE, clock=ManualClock(wall_s=1_700_000_000.0)) as running:
        running.coordinator.manifest = None
        assert running.operator("/v1/manifest/reload").status == 200
        yield running


def planned(receiver: LiveReceiver, manifest: str | None = AFTER) -> dict[str, Any]:
    if manifest is not None:
        receiver.manifest.write_text(manifest, encoding="utf-8")
    answer = receiver.operator("/v1/manifest/plan")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.body
    return found


def claim(receiver: LiveReceiver, host: str = "a") -> str:
    body = {"capability": cpu_host().to_dict()}
    return str(receiver.worker("POST", "/v1/job/claim", body, host=host).body["job_id"])


def apply(receiver: LiveReceiver, plan_id: str) -> Any:
    return receiver.operator("/v1/manifest/reload", {"plan": plan_id})


def names(receiver: LiveReceiver) -> dict[str, int]:
    return {row.name: row.priority for row in receiver.queue.list_jobs() if not row.held}


def test_a_plan_names_each_change_with_its_line_and_its_effect(receiver: LiveReceiver) -> None:
    claim(receiver)
    found = planned(receiver)

    jobs = {job["name"]: job for job in found["jobs"]}
    assert jobs["gbt-realistic"]["action"] == "update"
    assert jobs["gbt-realistic"]["line"] == 8
    assert jobs["gbt-realistic"]["changed"] == [{"key": "priority", "from": 0, "to": 5}]
    assert jobs["gbt-realistic"]["running"]["host"] == "a"
    assert jobs["mlp-oracle"]["action"] == "replace"
    assert jobs["mlp-oracle"]["old_job_id"] != jobs["mlp-oracle"]["job_id"]
    assert jobs["mlp-oracle"]["hosts"] == ["a", "b"]
    (host,) = found["hosts"]
    assert host["changed"] == [{"key": "deny_jobs", "from": ["mlp"], "to": [], "line": 6}]
    assert host["effect"] == "mlp-oracle becomes eligible there"
    assert found["changes"] == 3
    assert names(receiver)["gbt-realistic"] == 0, "looking changes nothing"


def test_what_a_plan_said_is_what_its_reload_does(receiver: LiveReceiver) -> None:
    found = planned(receiver)

    done = apply(receiver, found["plan"].lower())

    assert done.status == 200
    assert done.body["counts"] == found["counts"] == {
        "added": 1, "updated": 1, "unchanged": 0, "removed": 1, "retrained": 0,
    }  # fmt: skip
    assert planned(receiver, None)["changes"] == 0


def test_a_plan_is_made_twice_with_one_id(receiver: LiveReceiver) -> None:
    assert planned(receiver)["plan"] == planned(receiver)["plan"]


def test_a_claim_between_plan_and_reload_is_told_in_words_and_changes_nothing(receiver: LiveReceiver) -> None:
    found = planned(receiver)
    claim(receiver, "b")

    refused = apply(receiver, found["plan"])

    assert (refused.status, refused.body["code"]) == (409, "E031")
    assert refused.body["moved"] == ["gbt-realistic was claimed by b at 22:13 UTC"]
    assert names(receiver)["gbt-realistic"] == 0
    assert apply(receiver, refused.body["plan"]).status == 200, "the fresh plan that does the same"
    assert names(receiver)["gbt-realistic"] == 5


def test_that_a_claimed_job_runs_now_moves_no_plan(receiver: LiveReceiver) -> None:
    job_id = claim(receiver)
    found = planned(receiver)
    assert receiver.worker("POST", f"/v1/job/{job_id}/heartbeat").status == 200

    assert apply(receiver, found["plan"]).status == 200


def test_a_file_that_was_saved_again_refuses_the_plan(receiver: LiveReceiver) -> None:
    found = planned(receiver)
    receiver.manifest.write_text(AFTER.replace("priority = 5", "priority = 6"), encoding="utf-8")

    refused = apply(receiver, found["plan"])

    assert (refused.status, refused.body["code"], refused.body["plan"]) == (409, "E032", None)
    assert "the manifest file has changed" in refused.body["error"]
    assert names(receiver)["gbt-realistic"] == 0


def test_a_file_that_only_got_a_comment_is_offered_as_a_plan_that_does_the_same(
    receiver: LiveReceiver,
) -> None:
    found = planned(receiver)
    receiver.manifest.write_text(AFTER + "# later\n", encoding="utf-8")

    refused = apply(receiver, found["plan"])

    assert refused.status == 409
    assert apply(receiver, refused.body["plan"]).status == 200


def test_another_reload_refuses_the_plan(receiver: LiveReceiver) -> None:
    found = planned(receiver)
    receiver.manifest.write_text(HOSTS.replace('["mlp"]', '["gbt"]') + GBT + MLP, encoding="utf-8")
    assert receiver.operator("/v1/manifest/reload").status == 200
    receiver.manifest.write_text(AFTER, encoding="utf-8")

    refused = apply(receiver, found["plan"])

    assert (refused.status, refused.body["code"]) == (409, "E034")


def test_a_reload_that_changed_no_more_than_a_rule_beside_the_fleet_refuses_the_plan(
    receiver: LiveReceiver,
) -> None:
    """The plan has said nothing of the retention, and now a reload would change it."""
    found = planned(receiver)
    assert found["other"] == []
    receiver.manifest.write_text("[retention]\nlog_days = 400\n" + BEFORE, encoding="utf-8")
    assert receiver.operator("/v1/manifest/reload").status == 200
    receiver.manifest.write_text(AFTER, encoding="utf-8")

    refused = apply(receiver, found["plan"])

    assert (refused.status, refused.body["code"], refused.body["plan"]) == (409, "E034", None)
    assert receiver.coordinator.retention.log_days == 400


def test_a_plan_is_forgotten_with_a_restart_and_made_anew_under_its_id(tmp_path: Path) -> None:
    with live_receiver(tmp_path, BEFORE) as running:
        before = planned(running)["plan"]
        running.manifest.write_text(BEFORE, encoding="utf-8")
    with live_receiver(tmp_path, BEFORE) as running:
        running.manifest.write_text(AFTER, encoding="utf-8")
        assert apply(running, before).status == 404
        assert planned(running, None)["plan"] == before
        assert apply(running, before).status == 200


def test_of_many_reloads_at_once_each_gets_the_answer_of_the_one_that_was_planned(
    receiver: LiveReceiver,
) -> None:
    found = planned(receiver)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: apply(receiver, found["plan"]), range(8)))

    assert {answer.status for answer in answers} == {200}
    assert [answer.body for answer in answers] == [answers[0].body] * 8
    reloads = [
        row for row in receiver.send("GET", "/v1/audit?event=reload").body["events"] if not row["job_id"]
    ]
    assert len(reloads) == 2, "that of the fixture and this one"


def test_claims_that_come_while_a_plan_is_carried_out_are_before_it_or_after_it(
    receiver: LiveReceiver,
) -> None:
    """Never in between: a plan that was refused has changed nothing, one that was carried out saw no claim before."""
    found = planned(receiver)
    with ThreadPoolExecutor(2) as pool:
        claimed = pool.submit(claim, receiver)
        answer = pool.submit(apply, receiver, found["plan"]).result()
        claimed.result()
    priority = names(receiver)["gbt-realistic"]
    assert (answer.status, priority) in ((200, 5), (409, 0))


def test_a_plan_whose_answer_was_lost_may_be_sent_again(receiver: LiveReceiver) -> None:
    found = planned(receiver)
    first, second = apply(receiver, found["plan"]), apply(receiver, found["plan"])

    assert (second.status, second.body) == (200, first.body)


def test_an_unknown_plan_is_refused_and_changes_nothing(receiver: LiveReceiver) -> None:
    planned(receiver)
    refused = apply(receiver, "AAAAAAAA")

    assert (refused.status, refused.body["code"], refused.body["moved"]) == (
        404,
        "E030",
        refused.body["moved"],
    )
    assert names(receiver)["gbt-realistic"] == 0


def test_the_last_16_plans_are_remembered(receiver: LiveReceiver) -> None:
    first = planned(receiver)["plan"]
    for number in range(KEPT):
        planned(receiver, AFTER + f"# {number}\n")

    assert apply(receiver, first).status == 404
    assert len(receiver.coordinator.plans) == KEPT


def test_a_text_is_only_looked_at(receiver: LiveReceiver) -> None:
    answer = receiver.operator("/v1/manifest/plan", {"text": AFTER, "name": "mine.toml"})

    assert (answer.status, answer.body["plan"], answer.body["changes"]) == (200, None, 3)
    assert len(receiver.coordinator.plans) == 0
    assert planned(receiver, None)["changes"] == 0, "the receiver's own file is as it was"


def test_a_faulty_manifest_is_answered_fault_by_fault(receiver: LiveReceiver) -> None:
    text = BEFORE.replace('mode = "oracle"', 'mode = "orcale"')
    for answer in (
        receiver.operator("/v1/manifest/plan", {"text": text, "name": "mine.toml"}),
        receiver.operator("/v1/manifest/plan", {"text": text}),
    ):
        (fault,) = answer.body["faults"]
        assert answer.status == 400
        assert (fault["code"], fault["line"], fault["key"]) == ("E113", 14, "mode")
        assert fault["hint"] == "did you mean oracle?"
        assert answer.body["error"].endswith("[E113]")
        assert fault["source"] in ("mine.toml", "manifest.toml")


@pytest.mark.parametrize("path", ["/v1/manifest/plan", "/v1/manifest/reload"])
def test_plans_are_for_the_operator_alone(receiver: LiveReceiver, path: str) -> None:
    assert receiver.send("POST", path).status == 401
    assert receiver.operator(path, token="guess").status == 401


@pytest.mark.parametrize("body", [{"plan": 7}, {"text": 7}, [], b"\xff", b'{"text": "\\ud800"}'])
def test_a_body_that_makes_no_sense_is_refused_in_words(receiver: LiveReceiver, body: object) -> None:
    for path in ("/v1/manifest/plan", "/v1/manifest/reload"):
        answer = receiver.operator(path, body)
        assert answer.status in (200, 400)
        assert answer.status == 200 or answer.body["error"]


def test_a_manifest_of_4_mib_can_be_looked_at(receiver: LiveReceiver) -> None:
    text = BEFORE + "#" * (4 * 1024 * 1024 - len(BEFORE))

    assert receiver.operator("/v1/manifest/plan", {"text": text}).status == 200
    assert receiver.operator("/v1/manifest/plan", {"text": text + "#"}).status == 400


def test_the_command_line_plans_applies_and_refuses(receiver: LiveReceiver, tmp_path: Path) -> None:
    nothing = run(receiver.url, "plan", token=TOKEN)
    assert (nothing.code, "Nothing to do" in nothing.out) == (exits.OK, True)
    receiver.manifest.write_text(AFTER, encoding="utf-8")

    found = run(receiver.url, "plan", token=TOKEN)
    assert found.code == exits.CHANGES
    plan_id = run(receiver.url, "plan", "--json", token=TOKEN).json["plan"]
    assert f"apply it: cis490-jobs reload --plan {plan_id}" in found.out
    piped = run(receiver.url, "plan", token=TOKEN, terminal=False).out.splitlines()
    assert len({line.count("\t") for line in piped}) == 1

    claim(receiver)
    refused = run(receiver.url, "reload", "--plan", plan_id, token=TOKEN)
    assert refused.code == exits.REFUSED
    assert "gbt-realistic was claimed by a at 22:13 UTC" in refused.err
    assert "[E031]" in refused.err
    fresh = refused.err.split("reload --plan ")[1].split()[0]
    assert run(receiver.url, "reload", "--plan", fresh, token=TOKEN).code == exits.OK


def test_a_preview_says_that_it_cannot_be_applied_and_what_to_do(
    receiver: LiveReceiver, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(AFTER, encoding="utf-8")

    done = run(receiver.url, "plan", str(mine), token=TOKEN)

    told = " ".join(done.out.split())
    assert done.code == exits.CHANGES
    assert "it cannot be applied" in told
    assert str(receiver.manifest) in told
    assert "next: put this text there, then: cis490-jobs plan" in told


def test_a_faulty_file_ends_with_78_and_all_its_faults(receiver: LiveReceiver, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(BEFORE + "seed = -1\npriority = 'x'\n", encoding="utf-8")

    done = run(receiver.url, "plan", str(mine), token=TOKEN)

    assert done.code == exits.MANIFEST_FAULTY
    assert done.err.count("mine.toml:") == 2


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [(None, exits.USAGE, "[E010]"), (b"\xff", exits.MANIFEST_FAULTY, "[E103]"),
     (b"#" * (4 * 1024 * 1024 + 1), exits.MANIFEST_FAULTY, "[E102]")],
)  # fmt: skip
def test_a_file_that_cannot_be_sent_is_told_here(
    receiver: LiveReceiver, tmp_path: Path, content: bytes | None, code: int, text: str
) -> None:
    mine = tmp_path / "mine.toml"
    if content is not None:
        mine.write_bytes(content)

    done = run(receiver.url, "plan", str(mine), token=TOKEN)

    assert done.code == code
    assert text in done.err
    assert "  next: " in done.err


@pytest.mark.parametrize(("word", "priority"), [("y\n", 5), ("yes\n", 5), ("n\n", 0), ("", 0), ("\n", 0)])
def test_a_person_is_shown_the_plan_and_asked(receiver: LiveReceiver, word: str, priority: int) -> None:
    receiver.manifest.write_text(AFTER, encoding="utf-8")

    done = run(receiver.url, "reload", token=TOKEN, typed=word)

    assert "Apply it? [y/N]" in done.out
    assert names(receiver)["gbt-realistic"] == priority
    assert done.code == exits.OK


@pytest.mark.parametrize("option", [("--yes",), ("--json",)])
def test_with_yes_or_json_nobody_is_asked(receiver: LiveReceiver, option: tuple[str, ...]) -> None:
    receiver.manifest.write_text(AFTER, encoding="utf-8")

    done = run(receiver.url, "reload", *option, token=TOKEN, typed="n\n")

    assert "[y/N]" not in done.out
    assert names(receiver)["gbt-realistic"] == 5


def test_with_nothing_to_do_nobody_is_asked(receiver: LiveReceiver) -> None:
    done = run(receiver.url, "reload", token=TOKEN, typed="y\n")

    assert "Nothing to do" in done.out
    assert "[y/N]" not in done.out
