"""The manifest's hosts: `[[hosts]]` tables with a `name`, or one `[hosts.NAME]` table each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from cis490.files import is_safe_name
from training.fleet.manifest_faults import Faults, described, shown
from training.fleet.manifest_table import NAME_RULE, Table, as_name
from training.fleet.types import Capability, Gpu, HostSpec
from training.trainer.options import MODELS

HOST_KEYS = ("name", "allow_jobs", "deny_jobs", "slots", "force", "capability")
CAPABILITY_KEYS = tuple(field.name for field in fields(Capability))
GPU_KEYS = tuple(field.name for field in fields(Gpu))
MAX_SLOTS = 64
_NO_SLOTS_HINT = "for a host that trains nothing, list every model in deny_jobs"


def read_hosts(value: object, faults: Faults) -> dict[str, HostSpec]:
    """The hosts by name, in the manifest's order. `value` is what stands under `hosts`, None when nothing does."""
    hosts: dict[str, HostSpec] = {}
    for table, name in _host_tables(value, faults):
        if name in hosts:
            table.add_whole(
                f'the name "{name}" is taken by the host in line {hosts[name].lines[""]}',
                "one table for each host",
                "merge the two, or rename one",
                key="name",
                code="E116",
            )
        elif name:
            hosts[name] = _read_host(table, name)
    return hosts


def _host_tables(value: object, faults: Faults) -> Iterator[tuple[Table, str]]:
    """Each host's table with its name, which is empty when it is missing or wrong."""
    if isinstance(value, list):
        yield from _listed_hosts(value, faults)
    elif isinstance(value, dict):
        yield from _named_hosts(value, faults)
    elif value is not None:
        found = f"hosts is {described(value)}"
        faults.add(
            ("hosts",), "", found, "a table for each host", "write [[hosts]]", key="hosts", code="E115"
        )


def _listed_hosts(items: list[object], faults: Faults) -> Iterator[tuple[Table, str]]:
    for position, item in enumerate(items):
        path = ("hosts", position)
        where = f"hosts[{position}]"
        if not isinstance(item, dict):
            found = f"{where} is {described(item)}"
            faults.add(path, "", found, "a table", "write [[hosts]]", key=where, code="E115")
            continue
        if isinstance(item.get("name"), str):
            where = f"{where} {described(item['name'])}"
        table = Table(faults, path, where, item)
        yield table, table.name("name", "", required=True)


def _named_hosts(items: dict[str, object], faults: Faults) -> Iterator[tuple[Table, str]]:
    for name, item in items.items():
        path = ("hosts", name)
        where = f"hosts.{shown(name)}"
        if not isinstance(item, dict):
            hint = "write [[hosts]] with two brackets, or [hosts.NAME]"
            found = f"{where} is {described(item)}"
            faults.add(path, "", found, "a table for a host", hint, key=where, code="E115")
        elif not is_safe_name(name):
            key, hint = f"hosts.{described(name)}", f"write [hosts.{as_name(name).replace('.', '-')}]"
            faults.add(path, "", f"{key} is no host name", NAME_RULE, hint, key=key, code="E114")
        else:
            table = Table(faults, path, where, item)
            if item.get("name", name) != name:
                found, expected = f"is {described(item['name'])}", f'"{name}", as the table is called'
                table.add("name", found, expected, "remove this line: the table has the name", code="E120")
            yield table, name


def _read_host(table: Table, name: str) -> HostSpec:
    table.reject_unknown(HOST_KEYS, _misplaced(table))
    keys = [key for key in HOST_KEYS if key in table.values]
    return HostSpec(
        name=name,
        allow_jobs=table.names("allow_jobs", tuple(MODELS)),
        deny_jobs=table.names("deny_jobs", tuple(MODELS)),
        capability=_read_capability(table.table("capability")),
        force=table.truth("force", False),
        slots=table.whole("slots", None, 1, MAX_SLOTS, hint=_NO_SLOTS_HINT),
        lines={"": table.line_of()} | {key: table.line_of(key) for key in keys},
    )


def _misplaced(table: Table) -> dict[str, str]:
    """Hints for keys that are right, but in the wrong place."""
    hints = {key: f"write it inside capability = {{ {key} = ... }}" for key in CAPABILITY_KEYS}
    for key, value in table.values.items():
        if isinstance(value, dict):
            hints[key] = "all hosts are written in one form: [[hosts]] with a name, or [hosts.NAME]"
    return hints


def _read_capability(table: Table | None) -> Capability:
    if table is None:
        return Capability()
    table.reject_unknown(CAPABILITY_KEYS)
    gpus = [_read_gpu(gpu) for gpu in table.tables("gpus")]
    capability = Capability(
        hostname=table.text("hostname", None),
        os=table.text("os", None),
        arch=table.text("arch", None),
        cores=table.whole("cores", None, 1),
        ram_gib=table.number("ram_gib", None, 0, above=True),
        has_cuda=table.truth("has_cuda", None),
        gpus=gpus if "gpus" in table.values else None,
        vram_gib=table.number("vram_gib", None, 0),
        torch_version=table.text("torch_version", None),
        python_version=table.text("python_version", None),
        git_commit=table.text("git_commit", None),
        models=list(table.names("models", tuple(MODELS))) if "models" in table.values else None,
        trainer_digest=table.text("trainer_digest", None),
    )
    if table.sound:
        _check_gpu_sense(table, capability)
    return capability


def _read_gpu(table: Table) -> Gpu:
    table.reject_unknown(GPU_KEYS)
    return Gpu(name=table.text("name", "GPU"), vram_gib=table.number("vram_gib", 0.0, 0, above=True))


def _check_gpu_sense(table: Table, capability: Capability) -> None:
    """`has_cuda`, `gpus` and `vram_gib` must tell one story."""
    largest = max((gpu.vram_gib for gpu in capability.gpus or ()), default=None)
    vram = capability.vram_gib
    if vram is not None and largest is not None and vram != largest:
        expected = f"{largest:g}, the largest of gpus"
        hint = f"write vram_gib = {largest:g}: it counts one GPU, never the sum"
        table.add("vram_gib", f"is {vram:g}", expected, hint, code="E120")
    if capability.has_cuda is False and (vram or largest):
        hint = "write has_cuda = true, or remove gpus and vram_gib"
        table.add("has_cuda", "is false", "no gpus and no vram_gib beside it", hint, code="E120")
