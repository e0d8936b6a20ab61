"""What a person reads when an option, a variable or a token cannot be used: golden messages of real programs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.factories.command import Screen
from training.fleet import cli, receiver, verbs, worker

FILE = Path(__file__).with_name("broken_options.txt")
MANIFEST = '[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'


def golden() -> dict[str, tuple[str, list[str]]]:
    """The cases of broken_options.txt by name: a command line, and what it says."""
    cases: dict[str, tuple[str, list[str]]] = {}
    for block in FILE.read_text("utf-8").split("\n=== ")[1:]:
        name, command, *lines = [line for line in block.splitlines() if line]
        assert name not in cases
        cases[name] = command.removeprefix("$ "), [line.removeprefix("> ") for line in lines]
    return cases


GOLDEN = golden()


def said(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the program says on standard error, without its own name."""
    manifest = folder / "manifest.toml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    words = shlex.split(command.replace("MANIFEST", str(manifest)).replace("STATE", str(folder / "state")))
    env = dict(word.split("=", 1) for word in words if re.match(r"[A-Z0-9_]+=", word))
    program, *argv = [word for word in words if not re.match(r"[A-Z0-9_]+=", word)]
    screen = Screen()
    try:
        if program == "receiver":
            code = receiver.main(argv)
        elif program == "worker":
            code = worker.main(argv, env)
        else:
            code = cli.run(argv, verbs.Terminal(env, Screen(), screen, lambda: 0.0, lambda: 0.0, 80))
    except SystemExit as end:
        code = int(str(end.code))
    assert code != 0
    lines = (screen.getvalue() or capsys.readouterr().err).splitlines()
    if any(": error: " in line for line in lines):  # argparse prints its usage first
        lines = [line.partition(": error: ")[2] for line in lines if ": error: " in line]
    return [re.sub(r"^cis490[ -][\w-]+(?: cannot start)?: ", "", line) for line in lines]


@pytest.mark.parametrize("case", GOLDEN)
def test_an_option_that_cannot_be_used_is_told(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, messages = GOLDEN[case]

    assert said(command, tmp_path, capsys) == messages


SOURCE = re.compile(r"(argument )?(--[a-z-]+|\$[A-Z0-9_]+|explain)( \([^)]*\))?: ")
FIX = re.compile(r"; (write|pass|did you mean) |next: (cis490-jobs|export) ")


@pytest.mark.parametrize("case", GOLDEN)
def test_a_message_names_source_found_expected_fix_and_code(case: str) -> None:
    """A message that lacks one of its parts makes this fail."""
    command, messages = GOLDEN[case]
    text = " ".join(messages)

    assert SOURCE.match(text), "which option or variable"
    assert is_found(command, text), "what was found there"
    assert "expected " in text or "[E011]" in text
    assert FIX.search(text), "what to type instead"
    assert re.search(r"\[E\d{3}\]", messages[0]), "the code"


def is_found(command: str, text: str) -> bool:
    """Does the message repeat the value? Never one that may be a secret."""
    if "secret" in command:
        return "secret" not in text
    values = [word.rpartition("=")[2] for word in shlex.split(command)]
    return any(repr(value) in text or f'"{value}"' in text or f"found {value}" in text for value in values)


def test_the_two_corpora_have_many_more_than_sixty_cases() -> None:
    manifests = Path(__file__).with_name("broken_manifests.txt").read_text("utf-8").count("\n=== ")
    assert len(GOLDEN) + manifests > 100
