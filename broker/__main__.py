"""`python -m broker`: read the settings, take the runtime directory, run until SIGTERM or SIGINT."""

import logging
import sys
from contextlib import closing

from broker.assembly import run_broker
from broker.processes.autogroup import lower_autogroup
from broker.processes.memory import total_bytes
from broker.processes.supervisor import Supervisor
from broker.runtime import RuntimeDir, RuntimeDirError
from broker.settings import load_settings
from broker.signals import Signals
from broker.wire.settings_file import SettingsError


def main() -> int:
    """Exit code: 0 after a signal, 2 if the start is impossible (one line per reason on stderr)."""
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
        )
        runtime = RuntimeDir(settings.runtime_dir)
    except (SettingsError, RuntimeDirError) as error:
        for line in str(error).splitlines():
            print(f"broker: {line}", file=sys.stderr)
        return 2
    lower_autogroup()
    with closing(runtime), closing(Signals()) as signals:
        launcher = Supervisor(
            runtime.worker_endpoint, settings.heartbeat_interval_seconds, settings.hub_dir, settings.blas_library
        )
        run_broker(settings, runtime, launcher, signals, total_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
