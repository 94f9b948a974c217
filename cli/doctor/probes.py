"""Asks this system about itself. Each probe is a function of the platform and of what may be asked: programs, files and
ports are given from outside, so that tests can play a Mac.

Never imports MLX or the broker: what only those know comes from processes (programs.py).
"""

import os
import resource
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import machine, python_version

from cli.doctor import outputs
from cli.doctor.facts import (
    LimitFacts,
    MachineMemory,
    PowerFacts,
    PythonFacts,
    SocketFacts,
    SystemFacts,
)
from cli.doctor.programs import output_of

_PANICS = Path("/Library/Logs/DiagnosticReports")
_LIBRARIES = (
    *("mlx", "mlx-metal", "mlx-lm", "mlx-vlm", "transformers", "tokenizers", "huggingface-hub"),
    *("pyzmq", "uvloop"),
)
_WHEELS = ("mlx", "mlx-metal", "mlx-cpu")
_PORT_SECONDS = 1.0


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


@dataclass(slots=True, frozen=True)
class Asks:
    """What may be asked. run: the output of a program, None if it has none. read: the text of a file, None if it cannot
    be read. names: of the files in a folder, none if it cannot be read."""

    run: Callable[[Sequence[str]], str | None] = output_of
    read: Callable[[str], str | None] = _read
    names: Callable[[Path], list[str]] = _names
    platform: str = sys.platform
    arch: str = machine()

    def sysctl(self, name: str) -> str | None:
        """The value of a sysctl of macOS."""
        text = self.run(("/usr/sbin/sysctl", "-n", name))
        return text.strip() if text and text.strip() else None

    @property
    def is_mac(self) -> bool:
        return self.platform == "darwin"


def system_facts(asks: Asks) -> SystemFacts:
    """Which machine this is."""
    if not asks.is_mac:
        release = outputs.linux_release(asks.read("/etc/os-release"))
        kernel = (asks.read("/proc/sys/kernel/osrelease") or "").strip() or None
        return SystemFacts(
            system={"linux": "Linux"}.get(asks.platform, asks.platform),
            release=" ".join(part for part in (kernel, f"({release})" if release else None) if part),
            arch=asks.arch,
            chip=outputs.linux_chip(asks.read("/proc/cpuinfo")),
            cores=os.cpu_count(),
        )
    version = asks.run(("/usr/bin/sw_vers", "-productVersion"))
    build = asks.run(("/usr/bin/sw_vers", "-buildVersion"))
    return SystemFacts(
        system="macOS",
        release=" ".join(part for part in ((version or "").strip(), f"({build.strip()})" if build else "") if part),
        arch=asks.arch,
        chip=asks.sysctl("machdep.cpu.brand_string"),
        model=asks.sysctl("hw.model"),
        cores=outputs.whole(asks.sysctl("hw.ncpu")),
        fast_cores=outputs.whole(asks.sysctl("hw.perflevel0.physicalcpu")),
        is_translated=asks.sysctl("sysctl.proc_translated") == "1",
    )


def memory_facts(asks: Asks) -> MachineMemory:
    """How much memory there is, and how much is left."""
    if asks.is_mac:
        pages = outputs.vm_pages(asks.run(("/usr/bin/vm_stat",)))
        used, total = outputs.swap_usage(asks.sysctl("vm.swapusage"))
        return MachineMemory(
            total=outputs.whole(asks.sysctl("hw.memsize")),
            available=outputs.mac_available(pages),
            wired=pages.get("Pages wired down"),
            swap_used=used,
            swap_total=total,
            pressure=outputs.mac_pressure(outputs.whole(asks.sysctl("kern.memorystatus_vm_pressure_level"))),
            wired_limit_mb=outputs.whole(asks.sysctl("iogpu.wired_limit_mb")),
        )
    known = outputs.linux_memory(asks.read("/proc/meminfo"))
    swap = known.get("SwapTotal")
    return MachineMemory(
        total=known.get("MemTotal"),
        available=known.get("MemAvailable"),
        swap_used=None if swap is None else swap - known.get("SwapFree", 0),
        swap_total=swap,
        pressure=outputs.linux_pressure(asks.read("/proc/pressure/memory")),
    )


def wired_bytes(asks: Asks) -> int | None:
    """Memory that cannot be paged out, None but on a Mac."""
    return memory_facts(asks).wired if asks.is_mac else None


def power_facts(asks: Asks) -> PowerFacts | None:
    """None but on a Mac."""
    if not asks.is_mac:
        return None
    source, percent = outputs.power_source(asks.run(("/usr/bin/pmset", "-g", "batt")))
    sleep, held_by, low = outputs.power_settings(asks.run(("/usr/bin/pmset", "-g")))
    return PowerFacts(source, percent, sleep, held_by, low, outputs.newest_panics(asks.names(_PANICS)))


def python_facts() -> PythonFacts:
    """The Python that runs this, and the libraries that it would load."""
    libraries, wheels = dict[str, str | None](), dict[str, str]()
    for name in _LIBRARIES:
        libraries[name] = _version(name)
    for name in _WHEELS:
        if tag := _wheel_tag(name):
            wheels[name] = tag
    return PythonFacts(python_version(), _python_arch(), sys.executable, libraries, wheels)


def _python_arch() -> str:
    """What this Python was built for: on a Mac it may be another than the machine's."""
    return sysconfig.get_platform().rpartition("-")[2]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wheel_tag(name: str) -> str | None:
    try:
        text = metadata.distribution(name).read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        return None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Tag:")), None)


def socket_facts(asks: Asks, runtime_dir: Path, path_bytes: int, max_bytes: int, now: float) -> SocketFacts:
    """now: Unix seconds."""
    age, sockets = None, 0
    try:
        age = max(now - runtime_dir.stat().st_mtime, 0.0) / 86400
        sockets = sum(path.is_socket() for path in runtime_dir.iterdir())
    except OSError:
        pass
    backlog = asks.sysctl("kern.ipc.somaxconn") if asks.is_mac else asks.read("/proc/sys/net/core/somaxconn")
    name = "net.local.stream.sendspace"
    buffers = asks.sysctl(name) if asks.is_mac else asks.read("/proc/sys/net/core/wmem_default")
    return SocketFacts(
        path_bytes=path_bytes,
        max_bytes=max_bytes,
        age_days=age,
        sockets=sockets,
        in_temporary=asks.is_mac and str(runtime_dir).startswith(("/var/folders/", "/private/var/folders/", "/tmp/")),  # noqa: S108 # compared only
        backlog=outputs.whole(backlog),
        buffer_bytes=outputs.whole(buffers),
    )


def limit_facts() -> LimitFacts:
    """ulimit of this process, which a service started here would have too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return LimitFacts((_finite(soft), _finite(hard)), _finite(processes))


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def port_user(asks: Asks, port: int, says: Callable[[int], str | None]) -> str:
    """`free`, or what listens on this port of this machine. says: what the program there calls itself over HTTP."""
    if not _listens(port):
        return "free"
    found = says(port) or "another program"
    lsof = next((path for path in ("/usr/sbin/lsof", "/usr/bin/lsof") if Path(path).exists()), "lsof")
    process = outputs.listener(asks.run((lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc")))
    return f"{found}, {process}" if process else found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_PORT_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0
