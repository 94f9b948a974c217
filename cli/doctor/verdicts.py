"""Judges what was found out about a machine: facts in, lines of the report out, with advice where something is wrong.

Pure: no clock, file or process.
"""

from collections.abc import Iterator

from cli.doctor.facts import (
    Finding,
    LimitFacts,
    MachineMemory,
    MachineReport,
    MlxFacts,
    PowerFacts,
    PythonFacts,
    Rating,
    ServiceFacts,
    SocketFacts,
    SystemFacts,
)

GIB = 1 << 30

_OLDEST_MACOS = 14
_PYTHONS = ((3, 11), (3, 14))
_NEEDED = ("mlx", "mlx-lm", "mlx-vlm", "pyzmq", "uvloop")

# Less than this is worth a warning: room for a model that is downloaded, files for a gateway with many clients.
_LOW_DISK = 10 * GIB
_FEW_FILES = 1024


def findings_of(report: MachineReport) -> list[Finding]:
    """Every line about the machine."""
    return [
        *_system(report.system),
        *_memory(report.memory, report.mlx, report.service, is_mac=report.system.system == "macOS"),
        *([] if report.power is None else _power(report.power)),
        *_python(report.python, report.mlx, is_mac=report.system.system == "macOS"),
        *_service(report.service, report.sockets),
        *_limits(report.limits, report.sockets),
        *(_port(port, user) for port, user in sorted(report.ports.items())),
    ]


def _system(system: SystemFacts) -> Iterator[Finding]:
    name = f"{system.system} {system.release}, {system.arch}"
    major = system.release.partition(".")[0]
    if system.system == "macOS" and major.isdigit() and int(major) < _OLDEST_MACOS:
        advice = f"MLX has no package for macOS before {_OLDEST_MACOS}: update macOS"
        yield Finding("system", name, Rating.FAILED, advice)
    else:
        yield Finding("system", name, Rating.OK)
    cores = f"{system.cores} cores" if system.cores else "cores unknown"
    if system.fast_cores:
        cores += f", {system.fast_cores} of them fast"
    yield Finding("chip", ", ".join(part for part in (system.chip or "unknown", system.model, cores) if part))


def _memory(memory: MachineMemory, mlx: MlxFacts, service: ServiceFacts, *, is_mac: bool) -> Iterator[Finding]:
    yield Finding("memory", f"{_gib(memory.total)} in all, {_gib(memory.available)} available")
    if is_mac:
        limit = memory.wired_limit_mb
        told = "unknown" if limit is None else "the system's default" if limit == 0 else f"{limit} MB"
        yield Finding("wired", f"{_gib(memory.wired)} now; iogpu.wired_limit_mb is {told}")
    yield _pressure(memory)
    if memory.swap_total is not None:
        heavy = memory.total is not None and memory.swap_used is not None and memory.swap_used > memory.total // 4
        yield Finding(
            "swap",
            f"{_gib(memory.swap_used)} of {_gib(memory.swap_total)} used",
            Rating.WARNING if heavy else Rating.OK,
            "much is paged out: close other programs before you trust a speed" if heavy else "",
        )
    if service.budget is not None:
        yield _budget(service, mlx, is_mac=is_mac)


def _pressure(memory: MachineMemory) -> Finding:
    match memory.pressure:
        case None:
            return Finding("memory pressure", "the system does not say it")
        case "normal":
            return Finding("memory pressure", "normal", Rating.OK)
        case level:
            advice = "the whole system is short of memory: close programs"
            return Finding("memory pressure", level, Rating.WARNING, advice)


def _budget(service: ServiceFacts, mlx: MlxFacts, *, is_mac: bool) -> Finding:
    found = f"{_gib(service.budget)} for all models, from: {service.budget_origin}"
    if is_mac and mlx.working_set is not None:
        found += f"; Metal recommends {_gib(mlx.working_set)}"
        if service.budget is not None and service.budget > mlx.working_set:
            advice = "a budget above what Metal recommends makes loads fail: lower MLX_BROKER_MAX_MEMORY_GB or unset it"
            return Finding("budget", found, Rating.WARNING, advice)
    return Finding("budget", found, Rating.OK)


def _power(power: PowerFacts) -> Iterator[Finding]:
    battery = "" if power.battery_percent is None else f", battery at {power.battery_percent} %"
    on_battery = power.source is not None and power.source != "AC Power"
    found = (power.source or "source unknown") + battery + (", low power mode" if power.low_power else "")
    is_slow = on_battery or bool(power.low_power)
    advice = "figures measured on a battery or in low power mode are lower: plug it in" if is_slow else ""
    yield Finding("power", found, Rating.WARNING if advice else Rating.OK, advice)
    if power.sleep_minutes is None:
        yield Finding("idle sleep", "unknown")
    elif power.sleep_minutes == 0:
        yield Finding("idle sleep", "never", Rating.OK)
    else:
        held = f", prevented now by {power.held_by}" if power.held_by else ""
        advice = "this Mac falls asleep while it serves unless MLX_BROKER_KEEP_AWAKE is true"
        yield Finding("idle sleep", f"after {power.sleep_minutes} min{held}", Rating.FACT, advice)
    if power.panics:
        advice = "say in the issue whether a model was loaded then; a report is in /Library/Logs/DiagnosticReports"
        yield Finding("kernel panics", ", ".join(power.panics), Rating.WARNING, advice)
    else:
        yield Finding("kernel panics", "no report", Rating.OK)


def _python(python: PythonFacts, mlx: MlxFacts, *, is_mac: bool) -> Iterator[Finding]:
    version = tuple(int(part) for part in python.version.split(".")[:2] if part.isdigit())
    found = f"{python.version}, {python.arch}, {python.path}"
    first, last = _PYTHONS
    if not first <= version <= last:
        wanted = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
        yield Finding("Python", found, Rating.FAILED, f"Python {wanted} is needed")
    elif is_mac and python.arch != "arm64":
        advice = "this Python is built for Intel, and MLX has no package for it: install one for Apple silicon"
        yield Finding("Python", found, Rating.FAILED, advice)
    else:
        yield Finding("Python", found, Rating.OK)
    absent = [name for name in _NEEDED if python.libraries.get(name) is None]
    libraries = ", ".join(f"{name} {version}" for name, version in python.libraries.items() if version)
    yield Finding(
        "libraries",
        libraries or "none",
        Rating.FAILED if absent else Rating.OK,
        f"missing: {', '.join(absent)}; run `make install`" if absent else "",
    )
    if python.wheels:
        yield Finding("wheels", ", ".join(f"{name} {tag}" for name, tag in python.wheels.items()))
    yield _metal(mlx, is_mac=is_mac)


def _metal(mlx: MlxFacts, *, is_mac: bool) -> Finding:
    if mlx.error is not None:
        return Finding("MLX", f"cannot be used: {mlx.error}", Rating.FAILED, "install anew: `make install`")
    device = ", ".join(f"{name} {value}" for name, value in mlx.device.items())
    found = f"computes on {'Metal' if mlx.metal else 'the CPU'} ({device})"
    if is_mac and not mlx.metal:
        return Finding("MLX", found, Rating.FAILED, "a Mac should have Metal: is this a virtual machine?")
    return Finding("MLX", found, Rating.OK)


def _service(service: ServiceFacts, sockets: SocketFacts) -> Iterator[Finding]:
    if service.error is not None:
        yield Finding("settings", service.error, Rating.FAILED, "correct these settings: no broker starts with them")
        return
    chosen = [
        *(["wired memory"] if service.wired_memory else []),
        *(["prefill in turns"] if service.prefill_in_turns else []),
        *([f"BLAS {service.blas_library}"] if service.blas_library else []),
    ]
    yield Finding("settings", ", ".join(chosen) or "defaults, as far as they concern the machine", Rating.OK)
    for folder in service.folders:
        case = {True: ", ignores case in names", False: "", None: ""}[folder.ignores_case]
        state = "" if folder.exists else " (does not exist yet)"
        low = folder.free is not None and folder.free < _LOW_DISK
        yield Finding(
            "models folder",
            f"{folder.path}{state}, {_gib(folder.free)} free{case}",
            Rating.WARNING if low else Rating.OK,
            "the disk is nearly full: a download or a prompt cache may fail" if low else "",
        )
    yield Finding("models", f"{service.models} usable", Rating.OK)
    for name, reason in service.broken:
        yield Finding("broken model", f"{name}: {reason}", Rating.WARNING, "download it again, or remove its folder")
    yield _runtime(service.runtime_dir, sockets)


def _runtime(runtime_dir: str, sockets: SocketFacts) -> Finding:
    age = "does not exist yet"
    if sockets.age_days is not None:
        age = f"{sockets.sockets} sockets, {sockets.age_days:.1f} days old"
    found = f"{runtime_dir}, {age}; socket paths of {sockets.path_bytes} bytes, {sockets.max_bytes} at most"
    if sockets.path_bytes > sockets.max_bytes:
        return Finding("runtime directory", found, Rating.FAILED, "set MLX_BROKER_RUNTIME_DIR to a shorter path")
    if sockets.in_temporary:
        advice = "macOS deletes what is not read there for three days: set MLX_BROKER_RUNTIME_DIR to another folder"
        return Finding("runtime directory", found, Rating.WARNING, advice)
    return Finding("runtime directory", found, Rating.OK)


def _limits(limits: LimitFacts, sockets: SocketFacts) -> Iterator[Finding]:
    soft, hard = limits.files
    # The gateway raises the soft limit itself.
    few = hard is not None and hard < _FEW_FILES
    yield Finding(
        "open files",
        f"{_count(soft)} soft, {_count(hard)} hard; processes: {_count(limits.processes)}",
        Rating.WARNING if few else Rating.OK,
        f"a gateway with many clients needs more: raise the hard limit (ulimit -Hn) above {_FEW_FILES}" if few else "",
    )
    buffer = "unknown" if sockets.buffer_bytes is None else f"{sockets.buffer_bytes // 1024} KiB"
    backlog = "unknown" if sockets.backlog is None else str(sockets.backlog)
    yield Finding("sockets", f"connections that may wait: {backlog}; buffer of one: {buffer}")


def _port(port: int, user: str) -> Finding:
    return Finding(f"port {port}", user, Rating.OK if user == "free" or "mlx-broker" in user else Rating.FACT)


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GIB:.1f} GiB"


def _count(limit: int | None) -> str:
    return "no limit" if limit is None else str(limit)
