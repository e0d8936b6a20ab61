"""The screen of `cis490-jobs models`: the completed jobs in comparable groups, best first. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from training.fleet.render import View, handle
from training.fleet.tables import Row, clip, figure, number_of, row_of, rows_of, table, text_of, tsv, words_of


def board(view: View, groups: Sequence[Row]) -> list[str]:
    """`models`: one table a group; in a pipe one table for all of them."""
    if view.width is None:
        return _tsv(groups)
    if not groups:
        return ["no job is completed yet", "  next: cis490-jobs status"]
    out: list[str] = []
    for group in groups:
        models = rows_of(group, "models")
        out += [*textwrap.wrap(_title(group), view.columns, subsequent_indent="  ", break_on_hyphens=False)]
        out += [*_fitted([_HEADER, *(_row(job) for job in models)], view.columns), ""]
        for job in models:
            for line in _remarks(job):
                out += textwrap.wrap(
                    f"{handle(job)}: {line}", view.columns, initial_indent="  ", subsequent_indent="    ",
                    break_on_hyphens=False,
                )  # fmt: skip
        if out[-1]:
            out.append("")
    return [*out, *_legend(groups, view.columns)]


_HEADER = ["NAME", "HOST", "ROC-AUC (95 %)", "PR/BASE", "FPR@90", "GAP (ORACLE-REAL)"]


def _fitted(lines: list[list[str]], columns: int) -> list[str]:
    """The table. Where it is too wide, the two figures behind a gap go first, then the host, then ends of names."""

    def width() -> int:
        return 2 + sum(max(len(line[at]) for line in lines) + 2 for at in range(len(lines[0]))) - 2

    if width() > columns:
        lines = [[*line[:-1], line[-1].partition(" (")[0]] for line in lines]
    if width() > columns:
        lines = [[line[0], *line[2:]] for line in lines]
    if (over := width() - columns) > 0:
        longest = max(len(line[0]) for line in lines)
        lines = [[clip(line[0], max(longest - over, 16)), *line[1:]] for line in lines]
    return table(lines[0], lines[1:], columns, wrap=True, indent="  ")


def with_interval(metrics: Row, key: str) -> str:
    """`0.941 (.921-.958)`; `-` for a figure that is not there."""
    value, interval = number_of(metrics, key), metrics.get(f"{key}_ci95")
    if value is None:
        return "-"
    ends = interval if isinstance(interval, list) and len(interval) == 2 else []
    return _three(value) + (f" ({'-'.join(_short(end) for end in ends)})" if ends else "")


def metrics_text(metrics: Row) -> str:
    """All figures of a job in one line, each with its interval behind it."""
    parts = []
    for key, value in metrics.items():
        if key.endswith("_ci95") and key.removesuffix("_ci95") in metrics:
            continue
        interval = metrics.get(f"{key}_ci95")
        ends = f" [{figure(interval)}]" if isinstance(interval, list) else ""
        parts.append(f"{figure(key)} {figure(value)}{ends}")
    return ", ".join(parts)


def _title(group: Row) -> str:
    hosts = ", ".join(words_of(group, "train_hosts")) or "by the recipe"
    data = text_of(group, "dataset_id")[:12] or "not told"
    leaky = " (LEAKY: no results to quote)" if group.get("leaky") else ""
    return f"split {text_of(group, 'split_recipe')}{leaky}, train hosts: {hosts}, data set {data}"


def _row(job: Row) -> list[str]:
    metrics = row_of(job, "metrics")
    base = number_of(metrics, "base_rate")
    pr_auc = _three(number_of(metrics, "pr_auc"))
    return [
        handle(job) + _marks(job),
        text_of(job, "host") or "-",
        with_interval(metrics, "roc_auc"),
        pr_auc if base is None else f"{pr_auc}/{_fixed(base, 2)}",
        _three(number_of(metrics, "fpr_at_tpr90")),
        _gap(row_of(job, "gap")),
    ]


def _marks(job: Row) -> str:
    mode = text_of(job, "mode")
    words = [] if mode in text_of(job, "name") and not job.get("held") else [mode]
    words += ["leaky"] if job.get("leaky") else []
    words += ["stale"] if words_of(job, "stale") else []
    return f" ({', '.join(words)})" if words else ""


def _gap(gap: Row) -> str:
    value = number_of(gap, "value")
    if value is None:
        return "-"
    return f"{value:+.3f} ({_short(gap.get('oracle'))}-{_short(gap.get('realistic'))})"


def _remarks(job: Row) -> list[str]:
    found = [f"stale: {word}" for word in words_of(job, "stale")]
    if job.get("held"):
        found.append(f"{text_of(job, 'name')} is not in the manifest any more")
    if reason := text_of(row_of(job, "gap"), "reason"):
        found.append(f"no gap: {reason}")
    return found


def _legend(groups: Sequence[Row], columns: int) -> list[str]:
    measures = {
        text_of(row_of(job, "gap"), "measure") for group in groups for job in rows_of(group, "models")
    } - {""}
    text = "PR/BASE: PR-AUC beside the share of suspicious windows, which a blind guess would reach. FPR@90: false "
    text += "positive rate where 90 % of the suspicious windows raise an alarm."
    if measures:
        text += f" GAP: oracle minus realistic of one model, in {' or '.join(sorted(measures))}."
    return textwrap.wrap(text, columns)


def _tsv(groups: Sequence[Row]) -> list[str]:
    header = [
        "SPLIT", "LEAKY", "TRAIN_HOSTS", "DATASET", "NAME", "MODEL", "MODE", "HOST", "ROC_AUC", "ROC_AUC_CI95",
        "PR_AUC", "BASE_RATE", "FPR_AT_TPR90", "GAP", "GAP_MEASURE", "GAP_ORACLE", "GAP_REALISTIC", "NO_GAP", "STALE",
        "JOB_ID",
    ]  # fmt: skip
    rows = []
    for group in groups:
        own = [
            text_of(group, "split_recipe"),
            figure(bool(group.get("leaky"))),
            ",".join(words_of(group, "train_hosts")),
            text_of(group, "dataset_id"),
        ]
        for job in rows_of(group, "models"):
            metrics, gap = row_of(job, "metrics"), row_of(job, "gap")
            cells = [text_of(job, key) for key in ("name", "model", "mode", "host")]
            cells += [
                _plain(metrics, key)
                for key in ("roc_auc", "roc_auc_ci95", "pr_auc", "base_rate", "fpr_at_tpr90")
            ]
            cells += [_plain(gap, key) for key in ("value", "measure", "oracle", "realistic", "reason")]
            rows.append([*own, *cells, ", ".join(words_of(job, "stale")), text_of(job, "job_id")])
    return tsv(header, rows)


def _plain(values: Mapping[str, object], key: str) -> str:
    value = values.get(key)
    if isinstance(value, list):
        return ",".join(str(one) for one in value)
    return "" if value is None else str(value)


def _three(value: float | None) -> str:
    return "-" if value is None else _fixed(value, 3)


def _fixed(value: float, digits: int) -> str:
    """With so many decimals; what is no share, and some client sent it as one, must not become 300 digits wide."""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.{digits}g}"


def _short(value: object) -> str:
    """`.921` for what lies between 0 and 1."""
    return _three(value).removeprefix("0") if isinstance(value, float) else figure(value)
