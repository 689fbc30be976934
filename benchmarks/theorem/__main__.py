"""Can pruning only tighten a certificate? Every bound, along every way of removing weights.

    python -m benchmarks.theorem --random 5 --out results/theorem
    python -m benchmarks.theorem --policies policy.npz --env gym/Hopper-v4 --out results/theorem

Of trained policies, the theorem's own quantity F along magnitude pruning: the mean over the states
that the pruned policy visits, with an interval over its episodes, beside the same at the dense
policy's states; and the sparsity from which a monotone bound says anything. Then state by state,
along nested masks of each network: how often a pruning step raised a bound and by how much, beside
the true sensitivity (Jacobian norm, attack), two null baselines, and what monotonicity costs in
tightness. Writes `robustness.csv`, `table.csv`, `curves.csv`, `theorem.png` and `report.md`, which
opens with the verdict.
"""

import shlex
import sys
from collections.abc import Sequence

from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.theorem.findings import Findings, Line, verdict
from benchmarks.theorem.measure import Options, follow, networks, study
from benchmarks.theorem.report import write
from benchmarks.theorem.robustness import Along, sentences
from jaxprune import devices


@guarded("start it again")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.theorem")
    options.check()
    devices.configure()
    found = list(networks(options))
    console.print(
        f"{len(found)} networks, {len(options.grid())} sparsities, {options.orders} random "
        f"orders, {options.singles} single weights, {options.states} states, bounds "
        f"{', '.join(options.bounds)}; results in {options.out}"
    )
    lines: list[Line] = []
    along: list[Along] = []
    for network in found:
        if network.env is not None:
            along.append(follow(network, network.env, options))
            console.print(f"{network.name}: its own states done")
        lines += study(network, options)
        console.print(f"{network.name}: done")
    command = shlex.join(["python", "-m", "benchmarks.theorem", *argv])
    write(options.out, Findings(lines), along, vars(options), command)
    for sentence in (*sentences(along), *verdict(Findings(lines))):
        console.print(sentence, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
