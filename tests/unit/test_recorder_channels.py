"""The recorder reads what the kernel writes, and its counters never fall."""

import os
import subprocess
import sys

import pytest

from collection import channels as ch
from collection.recorder import TreeSampler, record

STAT = """cpu  7998 1 1231 113836 205 2 70 136 0 0
cpu0 3901 0 589 57012 116 0 30 78 0 0
intr 135098 0 0 5
ctxt 203390
btime 1795310012
processes 4488
procs_running 3
procs_blocked 1
softirq 89141 0 12467
"""
DISKS = """   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9
 254       0 vda 100 4564 2000 30 200 18117 4000 50 6 70 7400 3187 57 40120 153 8 3
 254       1 vda1 99 0 1999 29 199 0 3999 49 5 69 7399
   8       0 sda 1 0 2 3 4 0 5 6 7 8 9
"""
NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0
  eth0:1000 10    0    0    0     0          0         0   200    2    0    0    0     0       0          0
  eth1: 1 2    0    0    0     0          0         0   3    4    0    0    0     0       0          0
"""
SNMP = """Ip: Forwarding DefaultTTL
Ip: 2 64
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens AttemptFails CurrEstab InSegs OutSegs RetransSegs OutRsts
Tcp: 1 -1 35 2 4 1 3902 2599 5 52
Udp: InDatagrams NoPorts OutDatagrams
Udp: 67 0 68
"""
PROCESS = "77 (a ) (b) S 1 77 77 0 -1 4194304 10 20 3 4 100 50 7 8 20 0 3 0 61790 3133440 413 1844 1 1 0"


def test_processor_time_and_process_counts() -> None:
    values = ch.parse_stat(STAT)
    assert values["sys.cpu.user"] == 7998
    assert values["sys.cpu.steal"] == 136
    assert values["sys.interrupts"] == 135_098
    assert values["sys.switches"] == 203_390
    assert values["sys.forks"] == 4488
    assert (values["sys.proc.running"], values["sys.proc.blocked"]) == (3, 1)


def test_memory_and_paging() -> None:
    memory = ch.parse_meminfo("MemFree:  816152 kB\nActive(file):   127012 kB\nHugePages_Total:       0\n")
    assert memory == {"sys.mem.free": 816_152, "sys.mem.active_file": 127_012}
    assert ch.parse_vmstat("pgfault 12\npgpgout 7\nnr_free_pages 5\n") == {
        "sys.vm.faults": 12,
        "sys.vm.paged_out": 7,
    }


def test_pressure_totals() -> None:
    text = "some avg10=0.00 avg60=0.05 avg300=0.11 total=2384456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
    assert ch.parse_pressure("cpu", text) == {"sys.pressure.cpu_some": 2_384_456}
    assert ch.parse_pressure("io", text) == {"sys.pressure.io_some": 2_384_456, "sys.pressure.io_full": 5}


def test_disks_are_summed_without_partitions_and_in_bytes() -> None:
    values = ch.parse_diskstats(DISKS, frozenset({"vda", "sda"}))
    assert values["block.reads"] == 101
    assert values["block.read_bytes"] == 2002 * 512
    assert values["block.write_bytes"] == 4005 * 512
    assert values["block.in_flight"] == 13
    assert values["block.flushes"] == 8, "an old kernel's line has no flushes and counts as 0"


def test_loopback_is_counted_apart_from_other_interfaces() -> None:
    assert ch.parse_net_dev(NET) == {
        "net.loopback.bytes": 3193,
        "net.loopback.packets": 29,
        "net.other.rx_bytes": 1001,
        "net.other.rx_packets": 12,
        "net.other.tx_bytes": 203,
        "net.other.tx_packets": 6,
    }


def test_protocol_totals_are_found_by_name() -> None:
    values = ch.parse_snmp(SNMP)
    assert values["net.tcp.active_opens"] == 35
    assert values["net.tcp.failed_attempts"] == 4
    assert values["net.tcp.resets_out"] == 52
    assert values["net.udp.datagrams_out"] == 68


def test_a_process_counts_with_its_ended_children_and_may_have_any_name() -> None:
    assert ch.parse_process_stat(PROCESS) == {
        "tree.minor_faults": 30,
        "tree.major_faults": 7,
        "tree.cpu.user": 107,
        "tree.cpu.system": 58,
        "tree.threads": 3,
        "rss_pages": 413,
    }


def test_input_output_and_switches_of_a_process() -> None:
    assert ch.parse_process_io("rchar: 9\nwchar: 8\ncancelled_write_bytes: 7\n") == {
        "tree.io.rchar": 9,
        "tree.io.wchar": 8,
    }
    status = "Name:\tx\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n"
    assert ch.parse_process_status(status) == {"tree.switches.voluntary": 3, "tree.switches.involuntary": 4}


def test_channels_have_unique_names_and_every_parsed_value_has_a_channel() -> None:
    names = [channel.name for channel in ch.CHANNELS]
    assert len(set(names)) == len(names)
    parsed = ch.parse_stat(STAT) | ch.parse_diskstats(DISKS, frozenset()) | ch.parse_net_dev(NET)
    assert set(parsed | ch.parse_snmp(SNMP)) <= set(names)


def test_levels_are_gauges_and_totals_are_counters() -> None:
    kinds = {channel.name: channel.kind for channel in ch.CHANNELS}
    assert kinds["sys.mem.free"] == kinds["block.in_flight"] == kinds["tree.rss"] == "gauge"
    assert kinds["sys.cpu.user"] == kinds["block.write_bytes"] == kinds["tree.io.wchar"] == "counter"


def test_what_a_kernel_does_not_report_is_zero() -> None:
    assert ch.row({}) == [0] * len(ch.CHANNELS)
    assert ch.row({ch.CHANNELS[1].name: 5})[:3] == [0, 5, 0]


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
FAMILY = """
import subprocess, sys
def child():
    code = "import os; os.write(1, b'x'); n = sum(range(3_000_000)); os.read(0, 1)"
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for _ in sys.stdin:
    one = child(); one.stdout.read(1)
    print("started", flush=True); sys.stdin.readline()
    one.communicate(b"y"); print("ended", flush=True)
"""


@linux
def test_counters_of_the_tree_do_not_fall_when_a_process_ends() -> None:
    family = subprocess.Popen(
        [sys.executable, "-S", "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert family.stdin is not None
    assert family.stdout is not None
    stdin, stdout = family.stdin, family.stdout

    def step() -> None:
        print("go", file=stdin, flush=True)
        stdout.readline()

    sampler = TreeSampler(family.pid)
    step()
    with_child = sampler.sample()
    step()
    without = sampler.sample()
    stdin.close()
    family.wait()
    stdout.close()
    gone = sampler.sample()
    sampler.close()
    assert (with_child["tree.processes"], without["tree.processes"], gone["tree.processes"]) == (2, 1, 0)
    assert without["tree.rss"] < with_child["tree.rss"]
    assert without["tree.cpu.user"] >= with_child["tree.cpu.user"]
    assert without["tree.io.rchar"] > 0
    for channel in ch.TREE_CHANNELS:
        if channel.kind == "counter":
            assert with_child[channel.name] <= without[channel.name] <= gone[channel.name], channel.name


class Clock:
    """Nanoseconds that pass when somebody sleeps; the n-th wait may take longer."""

    def __init__(self, delays_ns: dict[int, int]) -> None:
        self.now_ns, self.sleeps, self._delays_ns = 0, 0, delays_ns

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9) + self._delays_ns.get(self.sleeps, 0)
        self.sleeps += 1


@linux
def test_samples_are_taken_at_absolute_times() -> None:
    clock = Clock({})
    found = record(os.getpid(), 1_000_000_000, 0.5, 10, clock_ns=clock, sleep=clock.sleep)
    assert found.t_us == [0, 100_000, 200_000, 300_000, 400_000]
    assert found.dropped_samples == 0
    assert all(len(row) == len(ch.CHANNELS) for row in found.rows)


@linux
@pytest.mark.parametrize(
    ("delay_ns", "times_us", "dropped"),
    [
        (30_000_000, [0, 130_000, 200_000, 300_000, 400_000], 0),
        (150_000_000, [0, 250_000, 300_000, 400_000], 1),
        (290_000_000, [0, 390_000, 400_000], 2),
    ],
)
def test_a_late_sample_has_its_true_time_and_missed_ones_are_counted(
    delay_ns: int, times_us: list[int], dropped: int
) -> None:
    clock = Clock({1: delay_ns})
    found = record(os.getpid(), 1_000_000, 0.5, 10, clock_ns=clock, sleep=clock.sleep)
    assert found.t_us == pytest.approx(times_us, abs=1)
    assert found.dropped_samples == dropped


@linux
def test_a_sample_costs_little_processor_time() -> None:
    clock = Clock({})
    found = record(os.getpid(), 0, 10.0, 10, clock_ns=clock, sleep=clock.sleep)
    assert found.cpu_s / len(found.rows) < 0.006, (
        "about 1 ms is expected; 6 ms leaves room for a slow machine"
    )
