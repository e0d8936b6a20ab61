"""What is measured: the channels of an episode, and pure parsers from the text of /proc files to their values.

Counters are stored raw and cumulative; whoever trains divides differences by the true time between samples.
A field that this kernel's file lacks (pressure files are optional) reads as 0.
"""

from collections.abc import Mapping
from typing import Final

from cis490.episodes.format import Channel, Kind

SECTOR_BYTES: Final = 512
"""Unit of /proc/diskstats, whatever the disk's own sector size (kernel: Documentation/admin-guide/iostats.rst)."""

_CPU: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MEMORY: Final = {
    "MemFree": "free",
    "MemAvailable": "available",
    "Buffers": "buffers",
    "Cached": "cached",
    "Active(file)": "active_file",
    "Inactive(file)": "inactive_file",
    "Dirty": "dirty",
    "Writeback": "writeback",
    "AnonPages": "anon",
    "Mapped": "mapped",
    "Slab": "slab",
}
_VMSTAT: Final = {
    "pgfault": ("sys.vm.faults", "faults"),
    "pgmajfault": ("sys.vm.major_faults", "faults"),
    "pgpgin": ("sys.vm.paged_in", "KiB"),
    "pgpgout": ("sys.vm.paged_out", "KiB"),
    "pgfree": ("sys.vm.freed", "pages"),
    "pgactivate": ("sys.vm.activated", "pages"),
    "pgreuse": ("sys.vm.reused", "pages"),
    "nr_dirtied": ("sys.vm.dirtied", "pages"),
    "nr_written": ("sys.vm.written", "pages"),
}
_BLOCK: Final = {  # column of /proc/diskstats after the device's name -> channel
    0: ("reads", "requests"),
    2: ("read_bytes", "bytes"),
    3: ("read_ms", "ms"),
    4: ("writes", "requests"),
    6: ("write_bytes", "bytes"),
    7: ("write_ms", "ms"),
    8: ("in_flight", "requests"),
    9: ("busy_ms", "ms"),
    15: ("flushes", "requests"),
}
_SNMP: Final = {
    ("Tcp", "ActiveOpens"): ("net.tcp.active_opens", "connections"),
    ("Tcp", "PassiveOpens"): ("net.tcp.passive_opens", "connections"),
    ("Tcp", "AttemptFails"): ("net.tcp.failed_attempts", "connections"),
    ("Tcp", "CurrEstab"): ("net.tcp.established", "connections"),
    ("Tcp", "InSegs"): ("net.tcp.segments_in", "segments"),
    ("Tcp", "OutSegs"): ("net.tcp.segments_out", "segments"),
    ("Tcp", "RetransSegs"): ("net.tcp.retransmitted", "segments"),
    ("Tcp", "OutRsts"): ("net.tcp.resets_out", "segments"),
    ("Udp", "InDatagrams"): ("net.udp.datagrams_in", "datagrams"),
    ("Udp", "OutDatagrams"): ("net.udp.datagrams_out", "datagrams"),
}
_GAUGES: Final = {
    "sys.proc.running",
    "sys.proc.blocked",
    "block.in_flight",
    "net.tcp.established",
    "tree.processes",
    "tree.threads",
    "tree.fds",
    "tree.rss",
}
PRESSURE: Final = ("cpu", "io", "memory")

TREE_UNITS: Final = {
    "tree.processes": "processes",
    "tree.threads": "threads",
    "tree.fds": "descriptors",
    "tree.rss": "KiB",
    "tree.cpu.user": "ticks",
    "tree.cpu.system": "ticks",
    "tree.minor_faults": "faults",
    "tree.major_faults": "faults",
    "tree.io.rchar": "bytes",
    "tree.io.wchar": "bytes",
    "tree.io.syscr": "calls",
    "tree.io.syscw": "calls",
    "tree.io.read_bytes": "bytes",
    "tree.io.write_bytes": "bytes",
    "tree.switches.voluntary": "switches",
    "tree.switches.involuntary": "switches",
}


def _system_units() -> dict[str, str]:
    units = {f"sys.cpu.{name}": "ticks" for name in _CPU}
    units |= {"sys.switches": "switches", "sys.interrupts": "interrupts", "sys.forks": "processes"}
    units |= {"sys.proc.running": "processes", "sys.proc.blocked": "processes"}
    units |= {f"sys.mem.{name}": "KiB" for name in _MEMORY.values()}
    units |= dict(_VMSTAT.values())
    units |= {f"sys.pressure.{name}": "us" for name in ("cpu_some", "io_some", "io_full", "memory_some")}
    units |= {f"block.{name}": unit for name, unit in _BLOCK.values()}
    # Loopback has no separate direction: what is sent is received, so one direction says all.
    units |= {"net.loopback.bytes": "bytes", "net.loopback.packets": "packets"}
    for way in ("rx", "tx"):
        units |= {f"net.other.{way}_bytes": "bytes", f"net.other.{way}_packets": "packets"}
    return units | dict(_SNMP.values())


def _channel(name: str, unit: str) -> Channel:
    kind: Kind = "gauge" if name in _GAUGES or name.startswith("sys.mem.") else "counter"
    return Channel(name, unit, kind)


SYSTEM_CHANNELS: Final = tuple(_channel(name, unit) for name, unit in _system_units().items())
TREE_CHANNELS: Final = tuple(_channel(name, unit) for name, unit in TREE_UNITS.items())
CHANNELS: Final = SYSTEM_CHANNELS + TREE_CHANNELS
"""Order of the channels in every recorded episode."""


def parse_stat(text: str) -> dict[str, int]:
    """/proc/stat: processor time of all processors together, switches, interrupts, forks, queue lengths."""
    values: dict[str, int] = {}
    single = {
        "ctxt": "sys.switches",
        "intr": "sys.interrupts",
        "processes": "sys.forks",
        "procs_running": "sys.proc.running",
        "procs_blocked": "sys.proc.blocked",
    }
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        if key == "cpu":
            values |= {f"sys.cpu.{n}": int(v) for n, v in zip(_CPU, rest.split(), strict=False)}
        elif key in single:
            values[single[key]] = int(rest.split(" ", 1)[0])
    return values


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo, KiB."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key in _MEMORY:
            values[f"sys.mem.{_MEMORY[key]}"] = int(rest.split()[0])
    return values


def parse_vmstat(text: str) -> dict[str, int]:
    """/proc/vmstat."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        if key in _VMSTAT:
            values[_VMSTAT[key][0]] = int(rest)
    return values


def parse_pressure(resource: str, text: str) -> dict[str, int]:
    """/proc/pressure/RESOURCE: total stall time in microseconds."""
    wanted = {"cpu": ("some",), "io": ("some", "full"), "memory": ("some",)}[resource]
    values: dict[str, int] = {}
    for line in text.splitlines():
        share, _, rest = line.partition(" ")
        if share in wanted:
            values[f"sys.pressure.{resource}_{share}"] = int(rest.rpartition("total=")[2])
    return values


def parse_diskstats(text: str, disks: frozenset[str]) -> dict[str, int]:
    """/proc/diskstats summed over `disks` (whole disks: a partition's requests are counted in its disk)."""
    values = {f"block.{name}": 0 for name, _ in _BLOCK.values()}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) < 4 or parts[2] not in disks:
            continue
        for column, (name, unit) in _BLOCK.items():
            found = int(parts[3 + column]) if 3 + column < len(parts) else 0
            values[f"block.{name}"] += found * SECTOR_BYTES if unit == "bytes" else found
    return values


def parse_net_dev(text: str) -> dict[str, int]:
    """/proc/net/dev: the loopback interface, and all others summed."""
    values = {"net.loopback.bytes": 0, "net.loopback.packets": 0}
    values |= {f"net.other.{way}_{what}": 0 for way in ("rx", "tx") for what in ("bytes", "packets")}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if not colon:
            continue
        columns = rest.split()
        if name.strip() == "lo":
            values["net.loopback.bytes"], values["net.loopback.packets"] = int(columns[0]), int(columns[1])
            continue
        for way, first in (("rx", 0), ("tx", 8)):
            values[f"net.other.{way}_bytes"] += int(columns[first])
            values[f"net.other.{way}_packets"] += int(columns[first + 1])
    return values


def parse_snmp(text: str) -> dict[str, int]:
    """/proc/net/snmp: pairs of lines, names then values, each starting with its protocol."""
    values: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    for line in text.splitlines():
        protocol, _, rest = line.partition(": ")
        if protocol not in ("Tcp", "Udp"):
            continue
        if protocol not in names:
            names[protocol] = rest.split()
            continue
        for name, value in zip(names[protocol], rest.split(), strict=True):
            if (protocol, name) in _SNMP:
                values[_SNMP[protocol, name][0]] = int(value)
    return values


def parse_process_stat(text: str) -> dict[str, int]:
    """/proc/PID/stat. Time and faults include those of children that have ended and were waited for."""
    # The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    return {
        "tree.cpu.user": int(fields[11]) + int(fields[13]),
        "tree.cpu.system": int(fields[12]) + int(fields[14]),
        "tree.minor_faults": int(fields[7]) + int(fields[8]),
        "tree.major_faults": int(fields[9]) + int(fields[10]),
        "tree.threads": int(fields[17]),
        "rss_pages": int(fields[21]),
    }


def parse_process_io(text: str) -> dict[str, int]:
    """/proc/PID/io. The kernel adds a waited-for child's numbers to its parent's."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(": ")
        if f"tree.io.{key}" in TREE_UNITS:
            values[f"tree.io.{key}"] = int(rest)
    return values


def parse_process_status(text: str) -> dict[str, int]:
    """The context switches of /proc/PID/status: of the main thread, without children."""
    names = {"voluntary_ctxt_switches": "voluntary", "nonvoluntary_ctxt_switches": "involuntary"}
    values: dict[str, int] = {}
    for line in text.splitlines()[-2:]:
        key, _, rest = line.partition(":")
        if key in names:
            values[f"tree.switches.{names[key]}"] = int(rest)
    return values


def row(values: Mapping[str, int], channels: tuple[Channel, ...] = CHANNELS) -> list[int]:
    """The values in the order of `channels`; 0 for what this kernel does not report."""
    return [values.get(channel.name, 0) for channel in channels]
