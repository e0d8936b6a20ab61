"""Completion of command lines in a shell: which words may stand where, and the few lines each shell needs.

The scripts know no verbs and no options: at each Tab they call `cis490-jobs __complete`, which walks the parser itself
and asks the receiver for names. So nothing gets stale, and live jobs and hosts are offered.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

from training.fleet.parsing import verbs_of

FILES = ":files"
"""Offered instead of words: the shell shall complete paths by itself."""

Ask = Callable[[str], Iterable[str]]
"""What the receiver knows of a kind (`jobs`, `hosts`, `artifacts`, `codes`); nothing when it does not answer."""

KINDS = {
    "JOB": ("jobs",), "HOST": ("hosts",), "JOB|ARTIFACT": ("jobs", "artifacts"), "STATE": ("states",),
    "FILE|JOB": ("jobs", "artifacts"), "FILE": (FILES,), "DIR": (FILES,), "CODE": ("codes",),
}  # fmt: skip
"""The word that stands for a value in the help -> what may stand there."""


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], ask: Ask) -> list[str]:
    """What may stand in place of the last of `words` (which are those after the program's name, the last one
    perhaps unfinished or empty). `[FILES]`: a path."""
    *before, current = _joined(words)
    actions, verb, positionals = parser._actions, None, 0
    verbs = verbs_of(parser)
    pending: argparse.Action | None = None
    only_words = False
    for word in before:
        if pending is not None:
            pending = None
        elif word == "--":
            only_words = True
        elif word.startswith("-") and not only_words:
            pending = _takes_value(actions, word)
        elif verb is None:
            if word not in verbs:
                return []
            verb, actions = word, verbs[word]._actions
        else:
            positionals += 1
    if pending is not None:
        return _begin(current, _values(pending, ask))
    option, separator, value = current.partition("=")
    if separator and option.startswith("--"):
        action = _takes_value(actions, option)
        return [] if action is None else [f"{option}={one}" for one in _begin(value, _values(action, ask))]
    if current.startswith("-") and not only_words:
        return _begin(current, _options(actions))
    if verb is None:
        return _begin(current, verbs)
    places = [action for action in actions if not action.option_strings]
    return _begin(current, _values(places[positionals], ask)) if positionals < len(places) else []


def _joined(words: Sequence[str]) -> list[str]:
    """Without the `=` between an option and its value, which bash makes a word of its own."""
    found = [
        "" if word == "=" else word
        for at, word in enumerate(words)
        if word != "=" or at == len(words) - 1 or not words[at - 1].startswith("--")
    ]
    return found or [""]


def _takes_value(actions: Sequence[argparse.Action], word: str) -> argparse.Action | None:
    """The option that `word` is, if a value follows it."""
    return next((one for one in actions if word in one.option_strings and one.nargs != 0), None)


def _options(actions: Sequence[argparse.Action]) -> list[str]:
    return [name for one in actions for name in one.option_strings if name.startswith("--")]


def _values(action: argparse.Action, ask: Ask) -> list[str]:
    if action.choices is not None:
        return [str(one) for one in action.choices]
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    found: list[str] = []
    for kind in KINDS.get(name, ()):
        found += [FILES] if kind == FILES else ask(kind)
    return found


def _begin(start: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word == FILES or word.startswith(start)})


_BASH = """\
# bash completion of cis490-jobs; in ~/.bashrc:  source <(cis490-jobs completion bash)
_cis490_jobs() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" current found
    current="${COMP_WORDS[COMP_CWORD]}"
    found=$("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return 0
    if [[ "$found" == ":files" ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($found)
    fi
}
complete -F _cis490_jobs cis490-jobs
"""
_ZSH = """\
#compdef cis490-jobs
# zsh completion of cis490-jobs; in ~/.zshrc, after compinit:  source <(cis490-jobs completion zsh)
_cis490_jobs() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${found[1]}" == ":files" ]]; then
        _files
    else
        compadd -- "${(@)found:#}"
    fi
}
compdef _cis490_jobs cis490-jobs
"""
_FISH = """\
# fish completion of cis490-jobs; once:  cis490-jobs completion fish > ~/.config/fish/completions/cis490-jobs.fish
function __cis490_jobs
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete -- $words[2..-1] 2>/dev/null)
    if test "$found" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c cis490-jobs -f -a '(__cis490_jobs)'
"""
_POWERSHELL = """\
# PowerShell completion of cis490-jobs; in $PROFILE:  cis490-jobs completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName cis490-jobs -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -le $cursorPosition } |
        Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($wordToComplete -eq '') { $words += ':empty' }
    cis490-jobs __complete -- @words 2>$null | Where-Object { $_ -ne ':files' } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
"""
EMPTY = ":empty"
"""Stands for an empty last word where the shell cannot pass one (PowerShell before 7.3)."""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH, "powershell": _POWERSHELL}
