"""A trainer's process tree on Windows: a process group for Ctrl-Break and a Job Object that holds the tree.

The Job Object has KILL_ON_JOB_CLOSE, so Windows ends the tree when the guard ends, however it ends. It also counts
memory and time of the whole tree, and lists its processes, which are suspended one by one.
The trainer is started suspended and goes on once it is in the job, so nothing slips out: the `python.exe` of a virtual
environment is a small launcher, which starts the interpreter within a millisecond or two.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes import wintypes
from typing import IO

from training.fleet.guard_wire import ProcessEnd

assert sys.platform == "win32"  # tells the type checker which system this file is for

_KILL_ON_JOB_CLOSE = 0x2000
_EXTENDED_LIMITS = 9  # JobObjectExtendedLimitInformation
_ACCOUNTING = 1  # JobObjectBasicAccountingInformation
_TICKS_PER_S = 10_000_000
_ENDED_BY_US = 1
_PROCESS_LIST = 3  # JobObjectBasicProcessIdList
_MAX_PROCESSES = 4096
_PASSES = 20
_SUSPEND_RESUME = 0x0800  # PROCESS_SUSPEND_RESUME
_CREATE_SUSPENDED = 0x0004

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")
for _function in (_ntdll.NtSuspendProcess, _ntdll.NtResumeProcess):
    _function.argtypes = (wintypes.HANDLE,)
    _function.restype = ctypes.c_long
_kernel32.OpenProcess.restype = wintypes.HANDLE
_kernel32.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
_kernel32.CreateJobObjectW.restype = wintypes.HANDLE
_kernel32.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
_kernel32.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
_kernel32.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
_kernel32.GenerateConsoleCtrlEvent.argtypes = (wintypes.DWORD, wintypes.DWORD)
_kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
_kernel32.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD)
_kernel32.QueryInformationJobObject.argtypes = (
    wintypes.HANDLE,
    ctypes.c_int,
    ctypes.c_void_p,
    wintypes.DWORD,
    ctypes.c_void_p,
)


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


class _Accounting(ctypes.Structure):
    _fields_ = (
        ("TotalUserTime", ctypes.c_int64),
        ("TotalKernelTime", ctypes.c_int64),
        ("ThisPeriodTotalUserTime", ctypes.c_int64),
        ("ThisPeriodTotalKernelTime", ctypes.c_int64),
        ("TotalPageFaultCount", wintypes.DWORD),
        ("TotalProcesses", wintypes.DWORD),
        ("ActiveProcesses", wintypes.DWORD),
        ("TotalTerminatedProcesses", wintypes.DWORD),
    )


class _ProcessList(ctypes.Structure):
    _fields_ = (
        ("NumberOfAssignedProcesses", wintypes.DWORD),
        ("NumberOfProcessIdsInList", wintypes.DWORD),
        ("ProcessIdList", ctypes.c_size_t * _MAX_PROCESSES),
    )


class ProcessTree:
    """One trainer and whatever it starts."""

    def __init__(
        self, argv: Sequence[str], cwd: str, env: Mapping[str, str], *, adopts: bool = False
    ) -> None:
        self._job = _new_job()
        self._suspended: set[int] = set()
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP | _CREATE_SUSPENDED,
        )
        handle = int(self._process._handle)  # type: ignore[attr-defined]  # the only way to the handle
        if not _kernel32.AssignProcessToJobObject(self._job, handle):
            error = ctypes.WinError(ctypes.get_last_error())
            self._process.kill()
            raise error
        if _ntdll.NtResumeProcess(handle) < 0:
            self._process.kill()
            raise OSError("the trainer was started suspended and could not be resumed")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr

    def has_ended(self) -> bool:
        """Whether the trainer itself has ended."""
        return self._process.poll() is not None

    def wait_end(self) -> None:
        """Block until `has_ended`; for a thread that tells the others."""
        self._process.wait()

    def freeze(self) -> None:
        """Suspend every process of the job that is not suspended yet; again until none is new."""
        for _ in range(_PASSES):
            new = self._members() - self._suspended
            if not new:
                return
            for pid in new:
                _each(_ntdll.NtSuspendProcess, pid)
            self._suspended |= new

    def thaw(self) -> None:
        """Resume what `freeze` suspended: each suspension is counted, so once each."""
        for pid in self._suspended & self._members():
            _each(_ntdll.NtResumeProcess, pid)
        self._suspended.clear()

    def sample(self) -> None:
        """Nothing to do: the job keeps its own peak."""

    def ask_to_stop(self) -> None:
        """Ctrl-Break to the group; without a console (a service) it does not arrive, and `kill` follows.

        Not by `os.kill`: when the event cannot be sent, that ends the process at once (seen with 3.11).
        """
        _kernel32.GenerateConsoleCtrlEvent(signal.CTRL_BREAK_EVENT, self.pid)

    def kill(self) -> None:
        """End the whole tree."""
        if self._job is not None:
            _kernel32.TerminateJobObject(self._job, _ENDED_BY_US)

    def _members(self) -> set[int]:
        found = _ProcessList()
        size = ctypes.sizeof(found)
        if self._job is None or not _kernel32.QueryInformationJobObject(
            self._job, _PROCESS_LIST, ctypes.byref(found), size, None
        ):
            return set()
        return set(found.ProcessIdList[: found.NumberOfProcessIdsInList])

    def reap(self) -> ProcessEnd:
        """Take the exit status and the resources used, and let go of the job; only after `has_ended`, and once."""
        limits, accounting = _ExtendedLimits(), _Accounting()
        for number, info in ((_EXTENDED_LIMITS, limits), (_ACCOUNTING, accounting)):
            size = ctypes.sizeof(info)
            _kernel32.QueryInformationJobObject(self._job, number, ctypes.byref(info), size, None)
        _kernel32.CloseHandle(self._job)
        self._job = None
        ticks = accounting.TotalUserTime + accounting.TotalKernelTime
        return ProcessEnd(
            exit_code=self._process.wait(),
            signal_number=None,
            peak_rss_mib=round(limits.PeakJobMemoryUsed / 2**20, 1) or None,
            cpu_s=round(ticks / _TICKS_PER_S, 3) or None,
        )


def _each(function: Callable[[int], int], pid: int) -> None:
    handle = _kernel32.OpenProcess(_SUSPEND_RESUME, False, pid)
    if handle:
        function(handle)
        _kernel32.CloseHandle(handle)


def kill_marked(variable: str, values: frozenset[str]) -> list[int]:
    """Nothing is left to find: the Job Object ended the tree together with its guard."""
    return []


def _new_job() -> int | None:
    job: int | None = _kernel32.CreateJobObjectW(None, None)
    limits = _ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
    done = job and _kernel32.SetInformationJobObject(
        job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
    )
    if not done:
        raise ctypes.WinError(ctypes.get_last_error())
    return job
