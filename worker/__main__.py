"""`python -m worker`: one process for one model. Started by the broker only.

Only the order matters here: the lifeline comes before any import that takes time, so that no worker outlives its
broker, whatever the import does. Must stay cheap to import.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from worker.hub.later import postpone_hub
from worker.loading.quick_imports import remember_import_structure
from worker.process.blas import load_blas
from worker.process.intake import open_mark
from worker.process.lifeline import hold_lifeline
from worker.process.log_events import send_events


def main(arguments: argparse.Namespace) -> int:
    """The exit code of the process."""
    hold_lifeline(arguments.parent_pid)
    # Ctrl-C in a terminal is for the broker, which shuts its workers down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker loads from folders. Only a process that downloads asks the hub.
    if arguments.download is None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of mlx-audio; those of a download are its progress
    # The last line of stderr becomes `last_exit`: no advertisements there.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if arguments.intake_fd is not None:
        open_mark(arguments.intake_fd)
    if arguments.log_level is not None:
        send_events(arguments.log_level)
    else:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    if arguments.blas_library:
        load_blas(arguments.blas_library)
    remember_import_structure()
    if arguments.download is None:
        postpone_hub()
    from worker.service import run  # noqa: PLC0415 # after the lifeline

    return run(
        arguments.endpoint,
        arguments.worker_id,
        spare=arguments.spare,
        heartbeat_interval=arguments.heartbeat_interval,
        download=arguments.download,
        cache_dir=arguments.cache_dir,
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Runs one model. Started by the broker.")
    parser.add_argument("--endpoint", required=True, help="the broker's socket for workers, ipc://...")
    parser.add_argument("--worker-id", required=True, help="this process's identity, fresh for every start")
    parser.add_argument("--parent-pid", required=True, type=int, help="the broker; this process ends with it")
    parser.add_argument("--spare", action="store_true", help="import the text engine before a model is assigned")
    parser.add_argument("--download", metavar="ORG/NAME", help="fetch this repository instead of running a model")
    parser.add_argument("--cache-dir", type=Path, help="the Hugging Face cache to fetch it into")
    parser.add_argument("--heartbeat-interval", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--intake-fd", type=int, metavar="FD", help="the file that says which request is taken in")
    parser.add_argument("--blas-library", metavar="NAME", help="a BLAS to load before MLX, Linux only")
    parser.add_argument("--log-level", help="print events for the broker, from this level on; else plain lines")
    return parser.parse_args()


if __name__ == "__main__":
    code = 1
    options = _parse_arguments()
    try:
        code = main(options)
    except Exception:
        logging.getLogger("worker").exception("the worker fails")
    finally:
        sys.stderr.flush()
        # A regular exit would tear down the interpreter and MLX, which takes time for nothing.
        os._exit(code)
