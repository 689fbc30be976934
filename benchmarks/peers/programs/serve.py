"""The peer's end of the pipe: JSON lines. Standard library only, because every environment has it.

settings = read_settings()
for _ in turns(work, ("mujoco",)):
    run()
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

# What libraries print on standard output goes to standard error: it is no reply.
_replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
os.dup2(2, 1)


def read_settings() -> dict[str, Any]:
    """Returns what the other side wants done."""
    return json.loads(sys.stdin.readline())


def turns(work: int, packages: Sequence[str], **facts: Any) -> Iterator[bool]:
    """Says that everything is prepared, then yields once per request and times what follows.

    Args:
        work: env steps or pairs of one turn.
        packages: whose versions the other side is told.
        facts: what else it is told.
    """
    _reply({"versions": {name: version(name) for name in packages}, **facts})
    for _ in sys.stdin:
        clock, cpu = time.perf_counter(), time.process_time()
        yield True
        seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
        _reply({"work": work, "seconds": seconds, "cpu_seconds": cpu_seconds})


def _reply(message: dict[str, Any]) -> None:
    _replies.write(json.dumps(message) + "\n")
