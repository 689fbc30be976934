"""The programs: everything that touches files, clocks and terminals."""

import sys

from benchmarks import stopping

if sys.argv[:1] == ["-m"]:  # `python -m benchmarks.PROGRAM` is about to import its modules
    stopping.leave_while_importing()
