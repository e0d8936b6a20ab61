"""The manifest's jobs: one `[[jobs]]` table for each (model, mode, hyper). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from training.fleet.identity import job_id
from training.fleet.manifest_faults import Faults, described, suggestion
from training.fleet.manifest_table import INT_MAX, Table
from training.fleet.types import HyperValue, JobSpec, OnChange
from training.trainer.options import (
    DEFAULT_SPLIT_RECIPE,
    MODELS,
    MODES,
    SEED_MAX,
    SPLIT_RECIPES,
    HyperFault,
    Option,
    check_hyper,
    effective_hyper,
    expected_text,
)

JOB_KEYS = tuple(field.name for field in fields(JobSpec) if field.name not in ("job_id", "line", "lines"))
ON_CHANGES: tuple[OnChange, ...] = ("keep", "retrain")


def read_jobs(value: object, faults: Faults, host_names: Sequence[str] | None) -> tuple[JobSpec, ...]:
    """The jobs in the manifest's order. `value` is what stands under `jobs`, None when nothing does;
    `host_names` are the only hosts that `allowed_hosts` may name, None when any will do."""
    if value is None:
        return ()
    if not isinstance(value, list):
        hint = "write [[jobs]] with two brackets" if isinstance(value, dict) else "write [[jobs]]"
        found = f"jobs is {described(value)}"
        faults.add(("jobs",), "", found, "a list of tables", hint, key="jobs", code="E115")
        return ()
    return _Jobs(faults, host_names).read(value)


class _Jobs:
    def __init__(self, faults: Faults, host_names: Sequence[str] | None) -> None:
        self._faults = faults
        self._host_names = host_names
        self._names: dict[str, str] = {}
        """Job name -> where it was first used, for a person."""
        self._ids: dict[str, str] = {}

    def read(self, items: list[object]) -> tuple[JobSpec, ...]:
        specs: list[JobSpec] = []
        for position, item in enumerate(items):
            if isinstance(item, dict):
                spec = self._read(position, item)
                if spec is not None:
                    specs.append(spec)
            else:
                key = f"jobs[{position}]"
                found = f"{key} is {described(item)}"
                self._faults.add(
                    ("jobs", position), "", found, "a table", "write [[jobs]]", key=key, code="E115"
                )
        return tuple(specs)

    def _read(self, position: int, values: Mapping[str, object]) -> JobSpec | None:
        """One job, or None when it has a fault."""
        called = values.get("name", _default_name(values))
        where = f"jobs[{position}]"
        full_where = f"{where} {described(called)}" if isinstance(called, str) and called else where
        table = Table(self._faults, ("jobs", position), full_where, values)
        here = f"{where} in line {table.line_of()}"
        spec = self._checked(table)
        self._check_identity(table, spec.job_id, here)
        self._check_name(table, spec.name, here)
        return spec if table.sound else None

    def _checked(self, table: Table) -> JobSpec:
        """The job as far as it can be read: where the table is not sound, it has holes and no job_id."""
        model = table.choice("model", tuple(MODELS), "", required=True)
        mode = table.choice("mode", MODES, "", required=True)
        table.reject_unknown(JOB_KEYS, _misplaced(model))
        hyper = _read_hyper(table, model)
        split_recipe = table.choice("split_recipe", tuple(SPLIT_RECIPES), DEFAULT_SPLIT_RECIPE)
        train_hosts = table.names("train_hosts")
        seed = table.whole("seed", 0, 0, SEED_MAX)
        timeout_s = table.number("timeout_s", None, 0, above=True)
        stall_s = table.number("stall_s", None, 0, above=True)
        if timeout_s is not None and stall_s is not None and stall_s >= timeout_s:
            expected = f"less than timeout_s, which is {timeout_s:g}"
            hint = "lower it or remove it: it would never be reached"
            table.add("stall_s", f"is {stall_s:g}", expected, hint, code="E120")
        name = table.name("name", _default_name(table.values))
        priority = table.whole("priority", 0, -INT_MAX - 1)
        require_cuda = table.truth("require_cuda", False)
        prefer_cuda = table.truth("prefer_cuda", False)
        min_vram_gib = table.number("min_vram_gib", 0.0, 0)
        min_ram_gib = table.number("min_ram_gib", 0.0, 0)
        allowed_hosts = table.names("allowed_hosts", self._host_names)
        on_change = table.choice("on_change", ON_CHANGES, "keep")
        identity = ""
        if table.sound:
            identity = job_id(
                model=model,
                mode=mode,
                hyper=hyper,
                split_recipe=split_recipe,
                train_hosts=train_hosts,
                seed=seed,
            )
        return JobSpec(
            job_id=identity,
            model=model,
            mode=mode,
            hyper=hyper,
            split_recipe=split_recipe,
            train_hosts=train_hosts,
            seed=seed,
            name=name,
            priority=priority,
            require_cuda=require_cuda,
            prefer_cuda=prefer_cuda,
            min_vram_gib=min_vram_gib,
            min_ram_gib=min_ram_gib,
            allowed_hosts=allowed_hosts,
            timeout_s=timeout_s,
            stall_s=stall_s,
            on_change=on_change,
            line=table.line_of(),
            lines={key: table.line_of(key) for key in JOB_KEYS if key in table.values},
        )

    def _check_name(self, table: Table, name: str, here: str) -> None:
        first = self._names.setdefault(name, here) if name else here
        if first == here:
            return
        if "name" in table.values:
            hint = f'write name = "{name[:62]}-2"'
            table.add("name", f"is taken by {first}", "a name of its own", hint, code="E116")
        else:
            hint = 'a job without a name is called model-mode; add name = "..."'
            found = f"its name is taken by {first}"
            table.add_whole(found, "a name of its own", hint, key="name", code="E116")

    def _check_identity(self, table: Table, identity: str, here: str) -> None:
        first = self._ids.setdefault(identity, here) if identity else here
        if first != here:
            table.add_whole(
                f"is the same job as {first}",
                "a difference in model, mode, hyper, split_recipe, train_hosts or seed",
                "remove one of the two; keys at their defaults make no difference",
                key="seed",
                code="E117",
            )


def _default_name(values: Mapping[str, object]) -> str:
    """`model-mode`, or nothing where one of them is not known."""
    model, mode = values.get("model"), values.get("mode")
    known = isinstance(model, str) and model in MODELS and isinstance(mode, str) and mode in MODES
    return f"{model}-{mode}" if known else ""


def _misplaced(model: str) -> dict[str, str]:
    """Hints for hyper-parameters that stand beside `hyper` instead of inside it."""
    options = MODELS[model].options if model else {}
    return {key: f"write it inside hyper = {{ {key} = ... }}" for key in options}


def _read_hyper(job: Table, model: str) -> dict[str, HyperValue]:
    """The hyper table with each number in one spelling; empty when it is absent, wrong or of no known model."""
    table = job.table("hyper")
    if table is None or not model:
        return {}
    options = MODELS[model].options
    plain: dict[str, object] = {}
    for key, value in table.values.items():
        items = value if isinstance(value, list) else [value]
        odd = next((item for item in items if not _is_plain(item)), None)
        if odd is None or key not in options:
            plain[key] = value
        else:
            verb = "holds" if isinstance(value, list) else "is"
            table.add(
                key,
                f"{verb} {described(odd)}",
                expected_text(options[key]),
                _default(options[key]),
                code="E119",
            )
    for fault in check_hyper(model, plain):
        what, known = _hyper_fault(fault, model, plain.get(fault.key)), options.get(fault.key)
        if known is None:
            hint = suggestion(fault.key, tuple(options)) or f"remove it: {model} has nothing like it"
            table.add(fault.key, what, fault.expected, hint, code="E118")
        else:
            hint = f"did you mean {fault.did_you_mean}?" if fault.did_you_mean else _default(known)
            if fault.expected != expected_text(known):  # it goes ill with another option
                hint = f"write {known.name} = ... so that they agree, or change the other one"
            table.add(fault.key, what, fault.expected, hint, code="E119")
    if not table.sound:
        return {}
    effective = effective_hyper(model, plain)
    return {key: effective[key] for key in sorted(plain)}


def _default(option: Option) -> str:
    """What to write when nothing better is known."""
    value = option.default_value()
    text = f'"{value}"' if isinstance(value, str) else str(value).lower()
    return f"write {option.name} = {text}, the default"


def _hyper_fault(fault: HyperFault, model: str, value: object) -> str:
    if fault.key not in MODELS[model].options:
        return f"is not known for {model}"
    if value is None:  # a default that does not go with the keys that are given
        return f"is left at its default, {fault.found}"
    return f"is {fault.found if isinstance(value, list) else described(value)}"


def _is_plain(value: object) -> bool:
    """What `check_hyper` can judge and print: no table, no date, no number with thousands of digits."""
    if isinstance(value, int):
        return abs(value) <= INT_MAX
    return isinstance(value, float | str)
