"""`python -m cli.doctor.inside.footprint MIB`: what the system says about a process that takes this much memory with
MLX, as one line of JSON: resident bytes and footprint, more than before, and what MLX says.
"""

import json
import subprocess
import sys

from broker.processes.memory import Sampler

_MIB = 1 << 20

# Two lines: before and after the allocation. It ends with its stdin.
_TAKE = """
import sys
import mlx.core as mx
mx.eval(mx.zeros(1))
print(0, flush=True)
sys.stdin.readline()
taken = mx.random.uniform(shape=({mib} * (1 << 18),))
mx.eval(taken)
print(mx.get_active_memory(), flush=True)
sys.stdin.readline()
"""


def measured(mib: int) -> dict[str, int]:
    """Bytes that the allocation has added."""
    command = [sys.executable, "-c", _TAKE.format(mib=mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = Sampler()
        process.stdout.readline()
        before = sampler.sample(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        active = int(process.stdout.readline() or 0)
        after = sampler.sample(process.pid)
        if before is None or after is None:
            raise SystemExit("the process that takes the memory has ended")
        return {
            "asked": mib * _MIB,
            "resident": after.rss_bytes - before.rss_bytes,
            "footprint": after.footprint_bytes - before.footprint_bytes,
            "active": active,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(int(sys.argv[1]))) + "\n")
