"""What a proxy saw acknowledged, as the oracle wants to know it."""

from __future__ import annotations

import json

from tests.factories.fault_oracle import Ack
from tests.factories.proxy import Proxy


def worker_acks(proxy: Proxy) -> list[Ack]:
    """What the receiver answered 200 or 201 to workers, by the attempt that each answer was for."""
    acks: list[Ack] = []
    epochs: dict[str, int] = {}
    for one in proxy.answered("claim"):
        if one.answer.get("job_id"):
            job_id, epoch = str(one.answer["job_id"]), int(one.answer["epoch"])
            epochs[str(one.answer["lease_token"])] = epoch
            request = one.headers.get("x-claim-request", "")
            acks.append(Ack("claim", job_id, epoch, request=request))
    for verb in ("upload", "complete", "fail", "release"):
        for one in proxy.answered(verb):
            if verb == "upload" and one.answer.get("status") not in ("stored", "already-present"):
                continue
            body = json.loads(one.body or b"{}")
            artifact = one.answer.get("artifact_id") if verb == "upload" else body.get("artifact_id")
            # A token that no answer showed: the claim's answer was lost to the proxy, not to the worker's disk.
            epoch = epochs.get(one.token or "", 0)
            if epoch:
                fail_class = body.get("fail_class", "")
                acks.append(Ack(verb, one.job_id, epoch, str(artifact or ""), fail_class=fail_class))
    return acks
