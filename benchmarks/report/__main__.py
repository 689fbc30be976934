"""The report of a run, from its tables alone.

python -m benchmarks.report results/RUN      # draw an existing run again
"""

import sys
from collections.abc import Sequence

from benchmarks.report.write import Options, write_report
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import RunFolder, read_json
from jaxprune.devices import check_devices


@guarded("the tables are as they were")
def main(argv: Sequence[str]) -> int:
    """Draw the report of an existing run again."""
    path = read_options(Options, argv, "benchmarks.report", addresses=True).run
    check_devices()
    folder = RunFolder(path, read_json(path / "experiment.json").get("settings") or {})
    console = make_console()
    with folder.locked():
        write_report(folder, console)
    console.print(f"wrote {path}/report.html", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
