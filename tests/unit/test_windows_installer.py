"""The PowerShell script and the Scheduled Task of the Windows installer, as far as they can be judged without Windows.

Nothing here runs the script. It is parsed, and each command, option and variable in it must be one that exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tree_sitter
import tree_sitter_powershell

from training.fleet import join, worker_settings
from training.fleet.join import parser as join_parser

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "install-training-worker-windows.ps1"
TASK = ROOT / "etc" / "cis490-trainer-worker-task.xml"
SPACE = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"

SOURCE = SCRIPT.read_bytes().replace(b"\r\n", b"\n")
TREE = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language())).parse(SOURCE)

CMDLETS: dict[str, set[str]] = {
    "Disable-ScheduledTask": {"InputObject", "TaskName", "TaskPath"},
    "Enable-ScheduledTask": {"InputObject", "TaskName", "TaskPath"},
    "ForEach-Object": set(),
    "Get-Acl": {"LiteralPath"},
    "Get-ChildItem": {"LiteralPath", "Filter", "Force"},
    "Get-Content": {"LiteralPath", "Tail"},
    "Get-FileHash": {"LiteralPath", "Algorithm"},
    "Get-Item": {"LiteralPath", "Force"},
    "Get-ItemProperty": {"LiteralPath"},
    "Get-ScheduledTask": {"TaskName", "TaskPath", "ErrorAction"},
    "Join-Path": set(),
    "New-Item": {"ItemType", "Path"},
    "New-Object": set(),
    "Out-Host": set(),
    "Out-Null": set(),
    "Pop-Location": set(),
    "Push-Location": {"LiteralPath"},
    "Register-ScheduledTask": {"TaskName", "TaskPath", "Xml", "Force"},
    "Select-Object": {"Skip"},
    "Set-StrictMode": {"Version"},
    "Sort-Object": set(),
    "Start-ScheduledTask": {"TaskName", "TaskPath"},
    "Start-Sleep": {"Milliseconds"},
    "Stop-ScheduledTask": {"InputObject", "ErrorAction"},
    "Test-Path": {"LiteralPath"},
    "Unregister-ScheduledTask": {"TaskName", "TaskPath", "Confirm"},
    "Where-Object": set(),
    "Write-Host": set(),
}
"""Of Windows PowerShell 5.1 with Windows 10's ScheduledTasks module: the ones used, and the options used of them."""

AUTOMATIC = {"_", "args", "input", "null", "true", "false", "lastexitcode", "psscriptroot", "pscommandpath"}
PREFERENCES = {
    "erroractionpreference",
    "progresspreference",
    "outputencoding",
    "psnativecommanduseerroractionpreference",
}


def nodes(kind: str, node: tree_sitter.Node = TREE.root_node) -> Iterator[tree_sitter.Node]:
    if node.type == kind:
        yield node
    for child in node.children:
        yield from nodes(kind, child)


def text(node: tree_sitter.Node) -> str:
    return SOURCE[node.start_byte : node.end_byte].decode()


def test_the_script_parses() -> None:
    broken = [f"line {node.start_point[0] + 1}: {text(node)[:80]}" for node in nodes("ERROR")]
    assert not broken
    assert not TREE.root_node.has_error


def test_it_is_ascii_with_short_lines() -> None:
    """PowerShell 5.1 reads a file without a byte order mark in the machine's own code page."""
    assert SOURCE.isascii()
    assert b"\t" not in SOURCE
    assert max(map(len, SOURCE.splitlines())) <= 150


def test_each_command_is_a_function_of_the_script_or_a_cmdlet_with_the_options_it_has() -> None:
    functions = {text(next(nodes("function_name", node))) for node in nodes("function_statement")}
    used = set()
    for command in nodes("command"):
        name_node = next(nodes("command_name", command), None)
        if name_node is None or text(command).lstrip().startswith("&"):
            continue  # a program, called by a variable or a path
        name = text(name_node)
        used.add(name)
        options = {text(one).lstrip("-").rstrip(":") for one in nodes("command_parameter", command)}
        if name in functions:
            assert options == set() or name == "Read-Program", text(command)
            continue
        assert name in CMDLETS, f"line {command.start_point[0] + 1}: {name} is no cmdlet that this list knows"
        own = {
            text(one).lstrip("-").rstrip(":")
            for one in nodes("command_parameter", command)
            if _owner(one) == command
        }
        assert own <= CMDLETS[name], f"line {command.start_point[0] + 1}: {text(command)}"
    assert functions <= used, "a function that nothing calls"


def _owner(node: tree_sitter.Node) -> tree_sitter.Node | None:
    at = node.parent
    while at is not None and at.type != "command":
        at = at.parent
    return at


def test_each_variable_is_set_somewhere() -> None:
    """`Set-StrictMode` ends the script at the first that is not."""
    names = [text(node).lower() for node in nodes("variable")]
    plain = {re.sub(r"^[$@]\{?(script:)?|\}$", "", name) for name in names if not name.startswith("$env:")}
    code = SOURCE.decode().lower()
    is_set = set(re.findall(r"\$(?:script:)?(\w+)\s*\+?=(?!=)", code))
    is_set |= set(re.findall(r"foreach \(\$(\w+) in", code)) | set(
        re.findall(r"\[\w+(?:\[\])?\]\$(\w+)", code)
    )
    for several in re.findall(r"^((?:\$\w+, )+\$\w+) = ", code, re.MULTILINE):
        is_set |= set(re.findall(r"\w+", several))
    unset = plain - AUTOMATIC - PREFERENCES - is_set
    assert not unset
    assert names


def test_it_takes_options_that_are_not_bound_to_the_pipeline() -> None:
    """With an attribute it would be an advanced script, whose $input is empty; a string could take a token."""
    (block, *_rest) = nodes("param_block")
    assert re.sub(r"\s+", " ", text(block)) == (
        "param([switch]$Check, [switch]$Torch, [switch]$Uninstall, [switch]$Help)"
    )
    assert b"[CmdletBinding" not in SOURCE
    assert b"[Parameter" not in SOURCE


def test_the_token_leaves_the_script_through_a_pipe_only() -> None:
    lines = [
        line.strip() for line in SOURCE.decode().splitlines() if "$token" in line and not line.startswith("#")
    ]
    others = [line for line in lines if not line.startswith(("$token = (@($input)", "Invoke-Join $token @("))]
    assert others == ["if (-not $Check -and -not $token -and -not (Test-Path -LiteralPath $identity)) {"]
    (join_function,) = (
        text(node)
        for node in nodes("function_statement")
        if text(next(nodes("function_name", node))) == "Invoke-Join"
    )
    assert join_function.count("$Text") == 2
    assert "$Text | & $python @all" in join_function
    assert "Write-Host $token" not in SOURCE.decode()


def test_standard_error_is_redirected_only_where_an_error_is_expected() -> None:
    """Under 'Stop', PowerShell 5.1 takes a redirected line on standard error for an error of the script."""
    (line,) = (line for line in SOURCE.decode().splitlines() if re.search(r"2>|\*>", line))
    assert line.strip().startswith("try { $said = & $Program @Arguments 2>$null }")


def test_the_options_for_joining_are_ones_that_it_has() -> None:
    known = {name for action in join_parser()._actions for name in action.option_strings}
    used = set(
        re.findall(
            r"'(--(?!require|only|progress|disable|quiet|log|no-|editable|requirement)[a-z-]+)'",
            SOURCE.decode(),
        )
    )
    assert used
    assert used <= known


def test_its_exit_codes_are_those_of_joining() -> None:
    (told,) = re.findall(r"Exit codes: (.*?)\n#\n", SOURCE.decode(), re.DOTALL)
    assert re.findall(r"\b(\d) ", told) == ["0", "1", "2", "3", "4", "5"]
    assert (join.OK, join.FAULT, join.USAGE, join.UNREACHABLE, join.UNSEEN, join.OWES) == (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def task() -> ElementTree.Element:
    return ElementTree.fromstring(TASK.read_text("ascii"))


def value(task: ElementTree.Element, path: str) -> str:
    found = task.findtext("/".join(f"{SPACE}{name}" for name in path.split("/")))
    assert found is not None, path
    return found


def test_the_task_starts_with_the_machine_and_has_no_time_limit(task: ElementTree.Element) -> None:
    assert value(task, "Triggers/BootTrigger/Enabled") == "true"
    assert value(task, "Settings/ExecutionTimeLimit") == "PT0S"
    assert task.find(f".//{SPACE}BootTrigger/{SPACE}ExecutionTimeLimit") is None
    for condition in (
        "DisallowStartIfOnBatteries",
        "StopIfGoingOnBatteries",
        "RunOnlyIfIdle",
        "RunOnlyIfNetworkAvailable",
    ):
        assert value(task, f"Settings/{condition}") == "false", condition
    assert value(task, "Settings/IdleSettings/StopOnIdleEnd") == "false"


def test_the_task_is_started_again_after_a_failure_and_never_twice(task: ElementTree.Element) -> None:
    assert value(task, "Settings/RestartOnFailure/Interval") == "PT1M"
    assert value(task, "Triggers/TimeTrigger/Repetition/Interval") == "PT5M"
    assert task.find(f".//{SPACE}Repetition/{SPACE}Duration") is None, "it repeats for ever"
    assert value(task, "Settings/MultipleInstancesPolicy") == "IgnoreNew"


def test_the_task_runs_as_local_service_without_rights_of_an_administrator(task: ElementTree.Element) -> None:
    assert value(task, "Principals/Principal/UserId") == "S-1-5-19"
    assert value(task, "Principals/Principal/RunLevel") == "LeastPrivilege"
    assert task.find(f".//{SPACE}LogonType") is None, "a service account has none"


def test_the_tasks_command_line_is_one_that_the_worker_takes_and_holds_no_secret(
    task: ElementTree.Element,
) -> None:
    arguments = value(task, "Actions/Exec/Arguments")
    module, *options = re.findall(r'"[^"]*"|\S+', arguments.removeprefix("-m "))
    assert module == "training.fleet.worker"
    known = {option.flag for option in worker_settings.OPTIONS}
    assert set(options[::2]) <= known
    assert all(one.startswith('"@STATE@') for one in options[1::2]), "paths may hold spaces"
    assert not re.search("token|secret|key", arguments, re.IGNORECASE)
    assert value(task, "Actions/Exec/WorkingDirectory") == "@CLONE@"


def test_the_script_fills_in_all_that_the_task_leaves_open() -> None:
    wanted = set(re.findall(r"@[A-Z]+@", TASK.read_text("ascii")))
    assert wanted == set(re.findall(r"'(@[A-Z]+@)'", SOURCE.decode()))
