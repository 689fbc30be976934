"""The programs: all files, clocks and terminals are here. See README.md beside."""

import sys

from benchmarks.runtime import preemption

if sys.argv[:1] == ["-m"]:  # `python -m benchmarks.PROGRAM` is about to import its modules
    preemption.leave_while_importing()
