"""What a person reads when a manifest is refused: golden messages, one broken manifest each."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from training.fleet.codes import CODES
from training.fleet.manifest import DATASET_KEYS, POLICY_KEYS, TOP_KEYS, TrainingManifestError, load, loads
from training.fleet.manifest_faults import Fault
from training.fleet.manifest_hosts import CAPABILITY_KEYS, GPU_KEYS, HOST_KEYS
from training.fleet.manifest_jobs import JOB_KEYS
from training.fleet.manifest_notify import NOTIFY_KEYS
from training.fleet.manifest_retention import RETENTION_KEYS
from training.trainer.options import MODELS

JOB = '[[jobs]]\nmodel = "mlp"\nmode = "oracle"\n'

LISTS = {
    "<model names>": ", ".join(MODELS),
    "<mlp keys>": ", ".join(MODELS["mlp"].options),
    "<job keys>": (
        "model, mode, hyper, split_recipe, train_hosts, seed, name, priority, require_cuda, prefer_cuda, "
        "min_vram_gib, min_ram_gib, allowed_hosts, timeout_s, stall_s, on_change"
    ),
    "<host keys>": "name, allow_jobs, deny_jobs, slots, force, capability",
    "<capability keys>": (
        "hostname, os, arch, cores, ram_gib, has_cuda, gpus, vram_gib, torch_version, python_version, "
        "git_commit, models, trainer_digest"
    ),
    "<name rule>": "1 to 64 letters, digits, dots, dashes or underscores, the first no dot",
}


def golden() -> dict[str, tuple[str, list[str]]]:
    """The cases of broken_manifests.txt by name: a manifest and the lines that are printed for it."""
    cases: dict[str, tuple[str, list[str]]] = {}
    file = Path(__file__).with_name("broken_manifests.txt")
    for block in file.read_text("utf-8").split("\n=== ")[1:]:
        name, *lines = block.splitlines()
        manifest = "".join(f"{line}\n" for line in lines if not line.startswith("> "))
        messages = [filled(line.removeprefix("> ")) for line in lines if line.startswith("> ")]
        assert name not in cases
        cases[name] = manifest, messages
    return cases


def filled(message: str) -> str:
    for placeholder, text in LISTS.items():
        message = message.replace(placeholder, text)
    return f"manifest.toml:{message}"


ENDLESS = "0x" + "f" * 5000
LONG_VALUES = [
    pytest.param(
        f"hyper = {{ hidden = [{ENDLESS}] }}",
        "hyper.hidden holds a huge whole number; expected a list of 1 to 8 whole numbers from 1 to 4096; "
        "write hidden = [64, 32], the default  [E119]",
        id="an endless hyper number",
    ),
    pytest.param(
        f"priority = {ENDLESS}",
        "priority is a huge whole number; expected a whole number that fits 64 bits; write priority = 0  [E112]",
        id="an endless priority",
    ),
    pytest.param(
        f"min_ram_gib = {ENDLESS}",
        "min_ram_gib is a huge whole number; expected a number of at least 0; write min_ram_gib = 0  [E112]",
        id="an endless size",
    ),
    pytest.param(
        f'allowed_hosts = ["{"n" * 65}"]',
        f'allowed_hosts[0] is "{"n" * 57}..."; expected {LISTS["<name rule>"]}; '
        f'write "{"n" * 64}", or remove it  [E114]',
        id="a name that is too long",
    ),
]


def refused(text: str, folder: Path = Path()) -> TrainingManifestError:
    with pytest.raises(TrainingManifestError) as caught:
        loads(text, folder=folder)
    return caught.value


GOLDEN = golden()


@pytest.mark.parametrize("case", GOLDEN)
def test_a_broken_manifest_is_told_line_by_line(case: str) -> None:
    text, messages = GOLDEN[case]

    assert str(refused(text)).split("\n") == messages


@pytest.mark.parametrize(("line", "message"), LONG_VALUES)
def test_a_value_that_goes_on_for_ever_is_told_in_short(line: str, message: str) -> None:
    assert str(refused(JOB + line)) == f'manifest.toml:4: jobs[0] "mlp-oracle": {message}'


SYNTAX = [
    pytest.param("name\n", 1, "column 5", "every line is a [table]", id="a word without a value"),
    pytest.param("name = lab\n", 1, "column 8", 'texts stand in "double quotes"', id="a text without quotes"),
    pytest.param('name = "lab\n', 1, "column 12", "a text ends in its line", id="a text without its end"),
    pytest.param('name = "a"\njobs = [1,\n\n\n', 2, "end of the file", "is still open", id="an open list"),
    pytest.param(
        '[dataset]\nfile = "C:\\Users\\lab"\n', 2, "column 13", "'single quotes'", id="a path with \\U"
    ),
    pytest.param(
        '[dataset]\nfile = "C:\\data\\lab"\n', 2, "column 13", "'single quotes'", id="a path with \\d"
    ),
    pytest.param('name = "a"\nname = "b"\n', 2, "column 11", "stands above already", id="a key twice"),
    pytest.param("[policy]\n[policy]\n", 2, "column 8", "stands above already", id="a table twice"),
    pytest.param("\nseed = 2026-02-30\n", 2, "column 8", "", id="a date that does not exist"),
]


@pytest.mark.parametrize(("text", "line", "place", "hint"), SYNTAX)
def test_a_syntax_fault_is_told_with_line_column_and_hint(
    text: str, line: int, place: str, hint: str
) -> None:
    """The parser's own words differ between Python versions; what surrounds them does not."""
    (fault,) = refused(text).faults

    assert (fault.line, fault.expected) == (line, "valid TOML")
    assert fault.found.startswith(f"{place}: ")
    assert hint in fault.hint


def test_a_number_with_thousands_of_digits_is_told_with_its_line() -> None:
    error = refused('name = "lab"\nseed = ' + "9" * 5000)

    assert str(error) == (
        "manifest.toml:2: a number has thousands of digits; expected numbers of 64 bits; "
        "write at most 18 digits  [E106]"
    )


def test_lists_nested_too_deeply_are_refused_in_words() -> None:
    error = refused("seed = " + "[" * 100_000)

    assert str(error) == (
        "manifest.toml: lists or tables are nested too deeply; expected at most a few levels; "
        "write [[hosts]] and [[jobs]], not one list  [E105]"
    )


def test_a_data_set_file_that_is_missing_is_told_with_its_full_path(tmp_path: Path) -> None:
    error = refused('[dataset]\nid = "abc"\nfile = "lab.tar.zst"\n', tmp_path)

    assert str(error).split("\n") == [
        (
            'manifest.toml:2: dataset.id is "abc"; expected 64 hex digits in lower case; '
            "write the id that packing the data set printed  [E112]"
        ),
        (
            'manifest.toml:3: dataset.file is "lab.tar.zst"; expected a file; there is none at '
            f"{tmp_path / 'lab.tar.zst'}; write the path from the manifest's folder, or the whole path  [E121]"
        ),
    ]


def test_a_data_set_path_with_a_line_end_stays_on_its_line(tmp_path: Path) -> None:
    error = refused(f'[dataset]\nid = "{"0" * 64}"\nfile = "a\\nb"\n', tmp_path)

    assert len(str(error).split("\n")) == 1


def test_twenty_faults_are_printed_and_the_rest_counted() -> None:
    error = refused("\n".join(f"key{position} = 1" for position in range(25)))

    assert len(error.faults) == 25
    lines = str(error).split("\n")
    assert lines[19].startswith("manifest.toml:20: key19 is not a known key")
    assert lines[20:] == ["... and 5 more"]


def test_twenty_faults_are_all_printed() -> None:
    error = refused("\n".join(f"key{position} = 1" for position in range(20)))

    assert len(str(error).split("\n")) == 20


def test_a_long_list_of_choices_is_cut() -> None:
    hosts = "".join(f"[hosts.lab-{position}]\n" for position in range(30))

    message = str(refused(hosts + JOB + 'allowed_hosts = ["nowhere"]\n'))

    assert message.endswith(
        "expected one of "
        + ", ".join(f"lab-{n}" for n in range(20))
        + " (30 in all); write one of these, or remove it from the list  [E113]"
    )


def test_the_message_names_the_file_as_the_operator_named_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("nmae = 1\n")

    with pytest.raises(TrainingManifestError) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}:1: nmae is not a known key")


def test_a_file_that_is_missing_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"

    with pytest.raises(TrainingManifestError) as caught:
        load(path)

    assert str(caught.value) == (
        f"{path}: there is no such file; expected the manifest, a TOML file; "
        "copy etc/training_manifest.toml.example there, or name another file in $CIS490_TRAINING_MANIFEST  [E101]"
    )


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(TrainingManifestError) as caught:
        load(tmp_path)

    assert str(caught.value).startswith(
        f"{tmp_path}: is a folder or a device; expected the manifest, a TOML file; copy "
    )


@pytest.mark.parametrize("name", ["a\0b", "n" * 5000])
def test_a_path_that_cannot_be_opened_is_refused_in_words(name: str) -> None:
    with pytest.raises(TrainingManifestError, match="cannot be read"):
        load(name)


def test_a_byte_that_is_no_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b'name = "lab"\n# caf\xe9\n')

    with pytest.raises(TrainingManifestError) as caught:
        load(path)

    assert str(caught.value) == (
        f"{path}:2: byte 0xe9 is not UTF-8; expected a text file in UTF-8; save it as UTF-8  [E103]"
    )


def test_a_file_beyond_4_mib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b"#" * (4 * 1024 * 1024 + 1))

    with pytest.raises(
        TrainingManifestError, match="more than 4194304 bytes; expected a manifest of at most 4"
    ):
        load(path)


def every_fault() -> list[tuple[str, Fault]]:
    """Each fault of the corpus, with the manifest that it was found in."""
    texts = [text for text, _ in GOLDEN.values()] + [str(case.values[0]) for case in SYNTAX]
    texts += [JOB + str(case.values[0]) for case in LONG_VALUES]
    return [(text, fault) for text in texts for fault in refused(text).faults]


OF_THE_WHOLE_FILE = ("E101", "E102", "E103", "E105", "E106", "E107")
"""There is no key that these could name."""
FIX = re.compile(
    r"did you mean |\b(write|add|remove|list|merge|lower|put|name|save|leave|start|correct|set|compare|begin)\b"
    r"|'single quotes'|double quotes|still open|the quote it began with|stands? (above|twice)|every line is"
    r"|all hosts are written"
)


def test_every_message_names_file_line_key_found_expected_and_fix() -> None:
    """A message of the corpus that lacks one of the six makes this fail."""
    found = every_fault()
    assert len(found) > 100
    for text, fault in found:
        lines = text.splitlines() or [""]
        told = f"{fault}"
        assert told.startswith(f"{fault.source}:{fault.line}: "), told
        assert fault.line is not None
        assert 1 <= fault.line <= len(lines), told
        assert fault.key or fault.code in OF_THE_WHOLE_FILE, told
        if fault.key and fault.code != "E104":
            assert fault.key in told or fault.code in ("E116", "E117"), (
                "a name may be missing, an identity has no key"
            )
        assert fault.found, told
        assert fault.expected, told
        assert f"; expected {fault.expected}" in told
        assert FIX.search(fault.hint), told
        assert told.endswith(f"  [{fault.code}]")
        assert fault.code in CODES, told


def places() -> list[tuple[str, str, Sequence[str]]]:
    """For each table of a manifest: what stands before its keys, what behind, and its keys."""
    host = '[[hosts]]\nname = "a"\n'
    tables: list[tuple[str, str, Sequence[str]]] = [
        ("", "", TOP_KEYS),
        ("[policy]\n", "", POLICY_KEYS),
        ("[dataset]\n", "", DATASET_KEYS),
        ("[notify]\n", "", NOTIFY_KEYS),
        ("[retention]\n", "", RETENTION_KEYS),
        (host, "", HOST_KEYS),
        (f"{host}[hosts.capability]\n", "", CAPABILITY_KEYS),
        (f"{host}[[hosts.capability.gpus]]\n", "", GPU_KEYS),
        (JOB, "", JOB_KEYS),
    ]
    tables += [
        (f'[[jobs]]\nmodel = "{name}"\nmode = "oracle"\n[jobs.hyper]\n', "", tuple(model.options))
        for name, model in MODELS.items()
    ]
    return tables


LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def one_edit(key: str, random: Random) -> str:
    """The key with one letter more, less or other, or two neighbours swapped."""
    at, letter = random.randrange(len(key)), random.choice(LETTERS)
    match random.randrange(4):
        case 0:
            return key[:at] + letter + key[at:]
        case 1:
            return key[:at] + key[at + 1 :]
        case 2:
            return key[:at] + letter + key[at + 1 :]
        case _:
            return key[:at] + key[at : at + 2][::-1] + key[at + 2 :]


def test_a_key_with_one_typing_error_gets_the_right_suggestion_in_95_of_100_cases() -> None:
    random = Random(5)
    right = wrong = 0
    missed: list[tuple[str, str]] = []
    for before, after, keys in places():
        for key in keys:
            for typo in {one_edit(key, random) for _ in range(12)}:
                if typo in keys or not typo:
                    continue  # it is another key, or none
                faults = refused(f'{before}{typo} = "x"\n{after}').faults
                hints = [fault.hint for fault in faults if fault.key.endswith(typo)]
                is_right = any(f"did you mean {key}?" in hint for hint in hints)
                right, wrong = right + is_right, wrong + (not is_right)
                if not is_right:
                    missed.append((key, typo))
    assert right + wrong > 1000
    assert wrong <= 0.05 * (right + wrong), missed
