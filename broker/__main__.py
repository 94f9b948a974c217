"""`python -m broker`: read the settings, take the runtime directory, run until SIGTERM or SIGINT."""

import os
import sys
from contextlib import closing

from broker.assembly import run_broker
from broker.processes.autogroup import lower_autogroup
from broker.processes.awake import Awake, caffeinate
from broker.processes.supervisor import Supervisor
from broker.processes.system import ThisSystem
from broker.runtime import RuntimeDir, RuntimeDirError
from broker.settings import load_settings
from broker.signals import Signals
from broker.wire.log_text import harmless
from broker.wire.logs import configure
from broker.wire.parents import has_lost_starter
from broker.wire.settings_file import SettingsError


def main() -> int:
    """Exit code: 0 after a signal or without its starter, 1 if the broker cannot go on, 2 if the start is impossible
    (one line per reason on stderr)."""
    lost_starter = has_lost_starter()
    try:
        settings = load_settings()
        configure("broker", settings.log_level, settings.log_format)
        runtime = RuntimeDir(settings.runtime_dir)
    except (SettingsError, RuntimeDirError) as error:
        for line in str(error).splitlines():
            print(f"broker: {harmless(line)}", file=sys.stderr)
        return 2
    lower_autogroup()
    with closing(runtime), closing(Signals()) as signals:
        launcher = Supervisor(
            runtime.worker_endpoint,
            settings.heartbeat_interval_seconds,
            settings.hub_dir,
            settings.blas_library,
            log_level=settings.log_level,
        )
        awake = Awake(caffeinate(sys.platform, os.getpid()) if settings.keep_awake else None)
        failure = run_broker(
            settings, runtime, launcher, signals, ThisSystem(), has_lost_starter=lost_starter, awake=awake
        )
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
