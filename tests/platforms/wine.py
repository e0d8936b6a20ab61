"""Windows' CPython under Wine, as scripts/platforms.sh prepares it: programs of the checkout run there as they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 180.0
"""An interpreter starts in a second under Wine; on a busy machine in many."""


def cache() -> Path:
    """Where scripts/platforms.sh puts what it prepared."""
    return Path(os.environ.get("CIS490_PLATFORM_CACHE") or Path.home() / ".cache" / "cis490-platforms")


def prefix() -> Path | None:
    """The folder with Windows in it; None when it is not prepared."""
    found = [path / "prefix" for path in sorted(cache().glob("wine-*")) if path.suffix != ".partial"]
    return found[-1] if found and shutil.which("wine") else None


def why_not() -> str | None:
    """Why nothing can be run under Wine here; None when it can."""
    return None if prefix() else "Wine is not prepared here; type: make test-platforms"


def windows_path(path: Path) -> str:
    """The same file as Windows programs see it."""
    return "Z:" + str(path).replace("/", "\\")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass
class Wine:
    """Use as a context manager: whatever was started is ended, and Windows shut down, at the end."""

    folder: Path
    """Of the test; what names it in its command line belongs to the test."""
    further_modules: Sequence[Path] = ()
    _home: Path = field(init=False)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = prefix()
        assert found is not None, why_not()
        # The prepared one is written to by Windows as it runs, and tests may run side by side: each gets links to it.
        self._home = Path(mkdtemp(prefix="cis490-wine-"))
        _mirror(found, self._home)

    def __enter__(self) -> Wine:
        # Otherwise Windows starts with the first program of each few seconds, and ends between them.
        env, devnull = self.environment(), subprocess.DEVNULL
        for command in ([_wineserver(), "--persistent"], ["wine", "wineboot"]):
            subprocess.run(
                command, env=env, check=True, timeout=TIMEOUT_S, stdin=devnull, stdout=devnull, stderr=devnull
            )
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.kill()
            process.wait(TIMEOUT_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        subprocess.run([_wineserver(), "--kill"], env=self.environment(), check=False, timeout=TIMEOUT_S)
        subprocess.run([_wineserver(), "--wait"], env=self.environment(), check=False, timeout=TIMEOUT_S)
        with contextlib.suppress(OSError):  # Debian's Wine notes here where its server's socket lies
            name = (self._home / "wineserver").read_text("ascii").strip()
            if name.startswith("wine-") and "/" not in name:
                shutil.rmtree(Path("/tmp") / name)
        shutil.rmtree(self._home, ignore_errors=True)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        modules = ["C:\\site", *map(windows_path, self.further_modules), windows_path(ROOT)]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "WINEPREFIX": str(self._home),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "winemenubuilder.exe=d",
            "DISPLAY": "",
            "PYTHONPATH": ";".join(modules),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            **(more or {}),
        }

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """`python ARGUMENTS` under Wine. Its output goes into pipes: a file is no valid handle for this Python."""
        process = subprocess.Popen(
            ["wine", "C:\\python\\python.exe", *arguments], env=self.environment(env), cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip
        self._started.append(process)
        return process

    def python(self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Run it to its end."""
        process = self.start(*arguments, env=env)
        out, err = process.communicate(stdin, TIMEOUT_S)
        return Done(process.returncode, out, err)

    def processes(self, *words: str) -> dict[int, str]:
        """The Linux pids of this test's Windows processes whose command lines hold all the words."""
        found: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if ".exe" in line and all(word in line for word in words) and self._is_ours(entry):
                    found[int(entry.name)] = line
        return found

    def _is_ours(self, entry: Path) -> bool:
        return f"WINEPREFIX={self._home}".encode() in (entry / "environ").read_bytes()

    def kill(self, pid: int) -> None:
        """As Windows' own TerminateProcess would: at once, without a word to it."""
        os.kill(pid, signal.SIGKILL)


def until(seconds: float = TIMEOUT_S, pause_s: float = 0.05) -> Iterator[None]:
    """For loops that wait for what other processes do; AssertionError when it takes too long."""
    end = time.monotonic() + seconds
    while True:
        assert time.monotonic() < end, "waited too long"
        yield
        time.sleep(pause_s)


def _mirror(source: Path, target: Path) -> None:
    """Windows' registry and drive letters as copies, its disk shared."""
    for name in ("system.reg", "user.reg", "userdef.reg", ".update-timestamp"):
        shutil.copy2(source / name, target / name)
    (target / "drive_c").symlink_to(source / "drive_c")
    (target / "dosdevices").mkdir()
    (target / "dosdevices" / "c:").symlink_to("../drive_c")
    (target / "dosdevices" / "z:").symlink_to("/")


def _wineserver() -> str:
    for name in ("wineserver", "/usr/lib/wine/wineserver64", "/usr/lib/wine/wineserver"):
        if found := shutil.which(name):
            return found
    raise AssertionError("Wine is here and its wineserver is not")
