"""How many cores this process may use: a job of a cluster is given some of its machine's."""

import os
import sys


def usable_cores() -> int:
    """Cores, at least 1."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
