"""Which device a claim says the trainer may use: the manifest's word counts, also below what the host reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.live_receiver import live_receiver

JOBS = '[[jobs]]\nmodel = "cnn"\nmode = "realistic"\n'
LOWERED = 'name = "t"\n[[hosts]]\nname = "a"\ncapability = { has_cuda = false }\n' + JOBS
AS_FOUND = 'name = "t"\n[[hosts]]\nname = "a"\n' + JOBS
GPU = {"has_cuda": True, "gpus": [{"name": "H100", "vram_gib": 80.0}], "vram_gib": 80.0}


@pytest.mark.parametrize(
    ("manifest", "capability", "device"),
    [
        (AS_FOUND, GPU, "auto"),
        (LOWERED, GPU, "cpu"),
        (AS_FOUND, {"has_cuda": False}, "cpu"),
        (AS_FOUND, {}, "auto"),
    ],
)
def test_a_claim_keeps_the_trainer_to_the_processor_where_the_host_is_to_be_one_without_cuda(
    tmp_path: Path, manifest: str, capability: dict[str, object], device: str
) -> None:
    with live_receiver(tmp_path, manifest) as receiver:
        headers = {"X-Fleet-Protocol": "2", "X-Claim-Request": "one"}
        receiver.operator("/v1/manifest/reload")
        told = [
            receiver.worker("POST", "/v1/job/claim", {"capability": capability}, **headers).body["device"]
            for _ in range(2)
        ]
    assert told == [device, device], "the same lease, asked for again, gets the same word"


def test_a_job_that_requires_cuda_is_never_kept_from_it(tmp_path: Path) -> None:
    with live_receiver(tmp_path, LOWERED + "require_cuda = true\n") as receiver:
        receiver.operator("/v1/manifest/reload")
        assert receiver.worker("POST", "/v1/job/claim", {"capability": GPU}).body["job"] is None
