"""The programs: everything that touches files, clocks and terminals."""

import sys

from benchmarks.runtime import preemption

if sys.argv[:1] == ["-m"]:  # `python -m benchmarks.PROGRAM` is about to import its modules
    preemption.leave_while_importing()
