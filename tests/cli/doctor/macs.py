"""What the programs of a Mac print, as far as the doctor asks: written after outputs in public issues and manuals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.doctor.probes import Asks

VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               11887.
Pages active:                            467336.
Pages inactive:                          363803.
Pages speculative:                       102040.
Pages throttled:                              0.
Pages wired down:                        196995.
Pages purgeable:                           1044.
"Translation faults":                1179544352.
Pages copy-on-write:                   61234567.
File-backed pages:                       264584.
Anonymous pages:                         668595.
Pages stored in compressor:              412345.
Pages occupied by compressor:            145678.
Swapins:                                    123.
Swapouts:                                    45.
"""

PMSET = """\
System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by sharingd, powerd)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         10
 tcpkeepalive         1
 lowpowermode         0
 womp                 1
"""

BATTERY = """\
Now drawing from 'Battery Power'
 -InternalBattery-0 (id=22872163)\t67%; discharging; 5:58 remaining present: true
"""
MAINS = "Now drawing from 'AC Power'\n"

SYSCTLS = {
    "machdep.cpu.brand_string": "Apple M4 Pro",
    "hw.model": "Mac16,8",
    "hw.ncpu": "12",
    "hw.perflevel0.physicalcpu": "8",
    "hw.memsize": "25769803776",
    "iogpu.wired_limit_mb": "0",
    "vm.swapusage": "total = 2048.00M  used = 1034.25M  free = 1013.75M  (encrypted)",
    "kern.memorystatus_vm_pressure_level": "1",
    "kern.ipc.somaxconn": "128",
    "net.local.stream.sendspace": "8192",
}

# Of an M4 Pro with 48 GB, as MLX prints it.
DEVICE: dict[str, int | str] = {
    "resource_limit": 499000,
    "max_buffer_length": 30150672384,
    "architecture": "applegpu_g16s",
    "memory_size": 51539607552,
    "max_recommended_working_set_size": 40200896512,
    "device_name": "Apple M4 Pro",
}

PANICS = [
    "mlx-broker-2026-01-02-101112.ips",
    "panic-full-2026-01-02-101112.0002.panic",
    "panic-full-2025-11-30-235959.0002.panic",
    "JetsamEvent-2026-01-02-101010.ips",
]


def mac(changed: Mapping[str, str] = {}, names: Sequence[str] = ()) -> Asks:
    """A Mac that answers so. changed: sysctls, or the last argument of another program."""
    answers: dict[tuple[str, ...], str] = {
        **{("/usr/sbin/sysctl", "-n", name): f"{value}\n" for name, value in (SYSCTLS | dict(changed)).items()},
        ("/usr/bin/sw_vers", "-productVersion"): "15.3.1\n",
        ("/usr/bin/sw_vers", "-buildVersion"): "24D70\n",
        ("/usr/bin/vm_stat",): VM_STAT,
        ("/usr/bin/pmset", "-g"): PMSET,
        ("/usr/bin/pmset", "-g", "batt"): changed.get("batt", MAINS),
    }
    return Asks(
        run=lambda command: answers.get(tuple(command)),
        read=lambda _path: None,
        names=lambda folder: list(names) if folder == Path("/Library/Logs/DiagnosticReports") else [],
        platform="darwin",
        arch="arm64",
    )
