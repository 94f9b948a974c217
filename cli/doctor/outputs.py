"""Reads what the programs of macOS and the files of Linux say. Pure: text in, facts out, None for what is not there."""

import re

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PRESSURE = {1: "normal", 2: "warning", 4: "critical"}


def whole(text: str | None) -> int | None:
    """A whole number that a program printed alone."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text.strip()) else None


def swap_usage(text: str | None) -> tuple[int | None, int | None]:
    """Used and total bytes of `sysctl -n vm.swapusage`: `total = 2048.00M  used = 1034.25M  free = ...`."""
    found = {name: (value, unit) for name, value, unit in re.findall(r"(\w+) = ([\d.]+)([KMGT])", text or "")}
    used, total = found.get("used"), found.get("total")
    return _size(used), _size(total)


def _size(value: tuple[str, str] | None) -> int | None:
    return None if value is None else int(float(value[0]) * _UNITS[value[1]])


def vm_pages(text: str | None) -> dict[str, int]:
    """Bytes by the names of `vm_stat`, such as `Pages wired down`."""
    page = re.search(r"page size of (\d+) bytes", text or "")
    if page is None:
        return {}
    rows = re.findall(r'^"?([^":\n]+)"?:\s+(\d+)\.?$', text or "", flags=re.MULTILINE)
    return {name: int(count) * int(page[1]) for name, count in rows}


def mac_available(pages: dict[str, int]) -> int | None:
    """What programs could get: free, inactive, speculative and purgeable pages."""
    if "Pages free" not in pages:
        return None
    return sum(pages.get(f"Pages {kind}", 0) for kind in ("free", "inactive", "speculative", "purgeable"))


def mac_pressure(level: int | None) -> str | None:
    """Of `sysctl -n kern.memorystatus_vm_pressure_level`."""
    return None if level is None else _PRESSURE.get(level)


def power_source(text: str | None) -> tuple[str | None, int | None]:
    """Source and per cent of the battery, of `pmset -g batt`."""
    source = re.search(r"Now drawing from '([^']+)'", text or "")
    percent = re.search(r"(\d{1,3})%;", text or "")
    return source[1] if source else None, int(percent[1]) if percent else None


def power_settings(text: str | None) -> tuple[int | None, str | None, bool | None]:
    """Minutes until sleep, what prevents it now, and low power mode, of `pmset -g`."""
    sleep = re.search(r"^ *sleep\s+(\d+)(?: \(sleep prevented by ([^)]+)\))?", text or "", flags=re.MULTILINE)
    low = re.search(r"^ *lowpowermode\s+(\d)", text or "", flags=re.MULTILINE)
    return (int(sleep[1]) if sleep else None, sleep[2] if sleep else None, low[1] == "1" if low else None)


def linux_memory(text: str | None) -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", text or "", flags=re.MULTILINE)
    return {name: int(count) * 1024 for name, count in rows}


def linux_chip(text: str | None) -> str | None:
    """The processor's name in /proc/cpuinfo; ARM has none there."""
    found = re.search(r"^model name\s*:\s*(.+)$", text or "", flags=re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]).strip() if found else None


def linux_release(text: str | None) -> str | None:
    """The distribution, of /etc/os-release."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', text or "", flags=re.MULTILINE)
    return found[1] if found else None


def linux_pressure(text: str | None) -> str | None:
    """Of /proc/pressure/memory: tasks that stood still for want of memory in the last ten seconds."""
    shares = dict(re.findall(r"^(some|full) avg10=(\d+\.\d+)", text or "", flags=re.MULTILINE))
    if not shares:
        return None
    if float(shares.get("full", 0)) >= 10:
        return "critical"
    return "warning" if float(shares.get("some", 0)) >= 10 else "normal"


def newest_panics(names: list[str], most: int = 5) -> tuple[str, ...]:
    """The names of panic reports, newest first: `panic-full-2026-01-02-030405.0002.panic` has its time in its name."""
    stamps = ((re.search(r"\d{4}-\d\d-\d\d-\d+", name), name) for name in names if "panic" in name)
    dated = [(stamp[0], name) for stamp, name in stamps if stamp]
    return tuple(name for _, name in sorted(dated, reverse=True)[:most])


def listener(text: str | None) -> str | None:
    """`python3.12 (pid 123)`, of `lsof -nP -iTCP:8080 -sTCP:LISTEN -Fpc`."""
    pid = re.search(r"^p(\d+)$", text or "", flags=re.MULTILINE)
    name = re.search(r"^c(.+)$", text or "", flags=re.MULTILINE)
    return f"{name[1]} (pid {pid[1]})" if pid and name else None
