"""The model card: a page for the person who wonders what a model is and how far to trust it.

Its sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019). Like every file of an
artifact it holds no time, host name of the trainer, path or version.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from training.trainer import leakage
from training.trainer.channels import BASELINE_S, VISIBLE
from training.trainer.data import Episode
from training.trainer.options import MODELS, SPLIT_RECIPES, Json
from training.trainer.plots import FOLDER
from training.trainer.spec import Job

Table = Mapping[str, Json]

_PICTURES = {
    "roc": "ROC curve with the alarm threshold",
    "pr": "Precision over recall, with the base rate",
    "confusion": "Windows with and without alarm",
    "families": "Alarms by family",
    "calibration": "Calibration",
    "delay": "Time to detection",
}

_PLAIN_MEASURES = (
    ("roc_auc_active", "ROC-AUC without the quiet baseline", "0.5"),
    ("roc_auc", "ROC-AUC of all windows", "mere activity: {roc_auc_of_mere_activity}"),
    ("pr_auc", "PR-AUC", "base rate: {base_rate}"),
    ("fpr_at_tpr90", "false positives at 90 % detection", "0.9"),
    ("fpr_at_tpr95", "false positives at 95 % detection", "0.95"),
    ("fpr_at_tpr99", "false positives at 99 % detection", "0.99"),
    ("tpr_at_fpr5", "detection at 5 % false positives", "0.05"),
    ("tpr_at_fpr1", "detection at 1 % false positives", "0.01"),
    ("tpr_at_fpr0p1", "detection at 0.1 % false positives", "0.001"),
    ("brier", "Brier score (smaller is better)", "always the base rate: {brier_of_base_rate}"),
    ("accuracy_at_half", "accuracy at a score of 0.5", "always the larger label: {accuracy_of_majority}"),
)


def model_card(job: Job, episodes: Sequence[Episode], split: Table, measured: Table, leaks: Table) -> bytes:
    """The card. `measured`, `split` and `leaks` are what stands in the JSON files beside it."""
    test = cast(Table, measured["test"])
    leaky = bool(split["leaky"])
    lines = [f"# {job.model}-{job.mode}" + (" (LEAKY split: for comparison only)" if leaky else "")]
    if leaky:
        lines += [
            "",
            (
                f"> **Not a result.** The split `{job.split_recipe}` tests on windows of the very episodes that "
                "trained. It shows how far a careless split flatters a model; none of the figures below "
                "says how the model does on anything new."
            ),
        ]
    lines += ["", *_details(job, episodes[0]), "", *_intended(), "", *_factors(job, episodes)]
    lines += ["", *_measures(test), "", *_at_threshold(measured), "", *_pictures()]
    lines += ["", *_data(job, episodes, split), "", *_leakage(leaks), "", *_limits(episodes), "", *_again()]
    return ("\n".join(lines) + "\n").encode()


def _details(job: Job, episode: Episode) -> list[str]:
    help_text = MODELS[job.model].help
    prefixes = ", ".join(f"`{prefix}`" for prefix in VISIBLE[job.mode])
    scaling = (
        f"Each is taken relative to the first {BASELINE_S:g} s of its episode."
        if episode.scaling == "relative"
        else "Each is taken as it was recorded, counters as rates."
    )
    return [
        "## Model details",
        "",
        (
            f"{help_text[:1].upper()}{help_text[1:]}. It says of each window of {job.hyper['window_s']:g} s how likely "
            "the host behaves suspiciously."
        ),
        "",
        (
            f"- Mode `{job.mode}`: it reads the {len(episode.signals)} channels whose names begin with {prefixes}. "
            f"{scaling}"
        ),
        (
            f"- Seed {job.seed}; every option stands in `config.json`, every step from episode to input in "
            "`preprocess.json`."
        ),
        "- The same job on the same data set gives the same bytes on the same kind of machine.",
    ]


def _intended() -> list[str]:
    return [
        "## Intended use",
        "",
        (
            "- For teaching and for comparing detectors on recorded telemetry. A score ranks windows for a person to "
            "look at."
        ),
        (
            "- Not for acting on a host or a person without somebody looking, and not on kinds of telemetry, hosts or "
            "behaviour other than those below: what it does there was not measured."
        ),
    ]


def _factors(job: Job, episodes: Sequence[Episode]) -> list[str]:
    hosts = sorted({episode.key.host for episode in episodes})
    families = {
        suspicious: sorted({e.key.family for e in episodes if e.key.suspicious == suspicious})
        for suspicious in (True, False)
    }
    simulated = sorted({episode.key.host for episode in episodes if episode.simulated})
    lines = [
        "## Factors",
        "",
        f"- Hosts: {', '.join(hosts)}.",
        f"- Families of suspicious behaviour: {', '.join(families[True])}.",
        f"- Families of benign behaviour: {', '.join(families[False])}.",
    ]
    if simulated:
        lines.append(
            f"- Simulated hosts (shaped parts of one machine): {', '.join(simulated)}. Results between them say "
            "less than results between real machines."
        )
    return lines


def _measures(test: Table) -> list[str]:
    base_rate = cast(float, test["base_rate"])
    known = {
        "roc_auc_of_mere_activity": _shown(test["roc_auc_of_mere_activity"]),
        "base_rate": _shown(base_rate),
        "brier_of_base_rate": _shown(base_rate * (1 - base_rate)),
        "accuracy_of_majority": _shown(max(base_rate, 1 - base_rate)),
    }
    lines = [
        "## Metrics, on the test side",
        "",
        f"{test['windows']} windows of {test['episodes']} episodes. Intervals are 95 %, drawn over whole episodes.",
        "",
        "| measure | value | interval | without a model |",
        "|---|---|---|---|",
    ]
    for name, title, against in _PLAIN_MEASURES:
        interval = _shown(test[f"{name}_ci95"]) if f"{name}_ci95" in test else "-"
        lines.append(f"| {title} | {_shown(test[name])} | {interval} | {against.format(**known)} |")
    calibration = cast(Table, test["calibration"])
    lines += [
        "",
        (
            f"Calibration: expected calibration error {_shown(calibration['ece'])} over {calibration['bins']} bins of "
            f"equal width; {_shown(calibration['ece_with_temperature'])} with the temperature "
            f"{_shown(calibration['temperature'])}, which was fitted on the validation side."
        ),
    ]
    return lines


def _at_threshold(measured: Table) -> list[str]:
    test, validation = cast(Table, measured["test"]), cast(Table, measured["validation"])
    at, before = cast(Table, test["at_threshold"]), cast(Table, validation["at_threshold"])
    delay = cast(Table, at["detection_delay"])
    cells, cells_before = cast(dict[str, int], at["confusion"]), cast(dict[str, int], before["confusion"])
    return [
        "### At the alarm threshold",
        "",
        (
            f"The threshold {_shown(at['threshold'])} is the one that detected most on the validation side with at "
            f"most {cast(float, measured['threshold_fpr']):.1%} false positives there."
        ),
        "",
        "| | validation | test |",
        "|---|---|---|",
        f"| suspicious windows detected | {_rate(cells_before, 'tp', 'fn')} | {_rate(cells, 'tp', 'fn')} |",
        f"| benign windows with an alarm | {_rate(cells_before, 'fp', 'tn')} | {_rate(cells, 'fp', 'tn')} |",
        (
            f"| false alarms per host-hour | {_shown(before['false_alarms_per_host_hour'])} | "
            f"{_shown(at['false_alarms_per_host_hour'])} |"
        ),
        "",
        (
            f"Of {delay['episodes']} suspicious test episodes a share of {_shown(delay['never_share'])} is "
            f"never detected; the others after {_shown(delay['median_s'])} s (median) and "
            f"{_shown(delay['p90_s'])} s (nine of ten)."
        ),
        "",
        "| family | suspicious windows detected | benign windows with an alarm |",
        "|---|---|---|",
        *_family_rows(at),
    ]


def _family_rows(at: Table) -> list[str]:
    recall = cast(Table, at["recall_by_family"])
    false_rate = cast(Table, at["false_positive_rate_by_family"])
    return [
        f"| {family} | {_shown(recall[family]) if family in recall else '-'} | "
        f"{_shown(false_rate[family]) if family in false_rate else '-'} |"
        for family in sorted({*recall, *false_rate})
    ]


def _pictures() -> list[str]:
    lines = ["### Pictures", "", "Each is drawn from the CSV file of the same name."]
    for name, title in _PICTURES.items():
        lines += ["", f"![{title}]({FOLDER}/{name}.svg)"]
    return lines


def _data(job: Job, episodes: Sequence[Episode], split: Table) -> list[str]:
    sides = cast(Mapping[str, Table], split["sides"])
    lines = [
        "## Evaluation and training data",
        "",
        (
            f"{len(episodes)} episodes; their identity is the `dataset_id` in `config.json`. Split "
            f"`{job.split_recipe}` ({SPLIT_RECIPES[job.split_recipe]}); held out for the test: {split['held_out']}."
        ),
        "",
        "| side | episodes | suspicious | hosts | used for |",
        "|---|---|---|---|---|",
    ]
    uses = {"train": "fitting", "validation": "threshold, temperature, watching", "test": "the figures above"}
    for name, side in sides.items():
        hosts = ", ".join(cast(list[str], side["hosts"]))
        lines.append(f"| {name} | {side['n_episodes']} | {side['n_suspicious']} | {hosts} | {uses[name]} |")
    if "embargo" in split:
        embargo = cast(Table, split["embargo"])
        lines += ["", f"{embargo['n_episodes']} episodes end too close to the cut and lie on no side."]
    return lines


def _leakage(leaks: Table) -> list[str]:
    found = leakage.warnings(leaks)
    checks = cast(Mapping[str, Table], leaks["checks"])
    lines = [
        "## Could the test be easier than it looks?",
        "",
        f"`leakage.json` holds {len(checks)} checks; {len(found)} of them warn.",
        "",
        "| check | verdict | what was found |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {check['verdict']} | {_cell(check['text'])} |" for name, check in checks.items()]
    return lines


def _limits(episodes: Sequence[Episode]) -> list[str]:
    lines = [
        "## Ethical considerations and limits",
        "",
        (
            "- Telemetry of a host says something about the people who use it. Whoever records on machines that others "
            "use needs their consent."
        ),
        (
            "- A false alarm costs somebody's time, and in a lab may cost somebody a suspicion: read the false alarms "
            "per host-hour before anything else."
        ),
        (
            "- `roc_auc_active` leaves out the quiet baseline, which any detector of mere activity gets right; "
            "`roc_auc` is to be read against that."
        ),
        (
            "- Rates of 1 % or 0.1 % mean little with fewer than some hundred benign windows: then they are read off a "
            "handful of them, or off none."
        ),
    ]
    if any(episode.simulated for episode in episodes):
        lines.append("- Suspicious behaviour was played by harmless stand-ins, not by malware.")
    return lines


def _again() -> list[str]:
    return [
        "## To measure it on other data",
        "",
        "```sh",
        "python -m training.trainer.score --artifact THIS_FOLDER --data DATA_SET_FOLDER",
        "```",
        "",
        (
            "It scores every episode that it is given and says how many of them trained this model; on those the "
            "figures mean nothing."
        ),
    ]


def _rate(cells: Mapping[str, int], alarm: str, quiet: str) -> str:
    total = cells[alarm] + cells[quiet]
    return f"{cells[alarm]} of {total} ({cells[alarm] / total:.1%})" if total else "none"


def _cell(value: Json) -> str:
    """Text for a Markdown table: names of features have a bar in them."""
    return str(value).replace("|", "\\|")


def _shown(value: Json) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " to ".join(_shown(item) for item in value)
    return str(value)
