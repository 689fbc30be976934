"""How fast: stepping, learning, evaluating clean and under attack, certifying.

    python -m benchmarks.throughput --env hopper --backend spring --json throughput.json

Rates are env steps per second over all devices (masks or pairs of mask and state per second for
the certificates), the
median of the repeats with their range; compilation is timed apart. Every rate is also given as a
ratio to bare stepping: random actions, no policy, in the same process. Of an evaluation, the share
of the simulated steps that count: the others are those of lanes that idle at the end of the queue.

    python -m benchmarks.throughput --peers --json peers.json

times programs of others beside ours instead, in turns and on one core; see `benchmarks.peers`.
"""

import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.experiment.memory import check_memory
from benchmarks.peers.registry import PEERS
from benchmarks.peers.sides import measure_peers
from benchmarks.rates.calls import RATES, STEPPING, needs
from benchmarks.rates.options import Options
from benchmarks.rates.timing import write_json
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.tables import terminal_table
from jaxprune import devices
from jaxprune.attacks import find_attack
from jaxprune.certify import BOUNDS
from jaxprune.envs import make_env
from jaxprune.ppo import REGIMES
from jaxprune.pruning import find_method
from jaxprune.validation import check_ranges, lookup


@guarded("nothing was measured to the end")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.throughput")
    check(options)
    if options.peers is None:
        measure(options, console)
    else:
        measure_peers(options, options.peers or tuple(PEERS), console)
    return 0


def check(options: Options) -> None:
    """Raises `InputError` for settings that measure nothing."""
    check_ranges(options)
    options.attack.check()
    options.ppo.check()
    for name in options.rates:
        lookup(RATES, name, "rate")
    for name in options.methods:
        find_method(name)
    for name in options.regimes:
        lookup(REGIMES, name, "regime")
    for name in options.attacks:
        find_attack(name)
    for name in options.bounds:
        lookup(BOUNDS, name, "bound")
    for name in options.peers or ():
        lookup(PEERS, name, "peer")


def measure(options: Options, console: Console) -> None:
    """All rates, printed and written."""
    devices.configure()
    env = make_env(options.env, options.backend)
    check_memory(needs(options, env))
    rates = [rate for name in options.rates for rate in RATES[name](options, env)]
    bare = next((rate.median for rate in rates if rate.name == STEPPING), None)
    header = ("what", "median", "range", "unit", "ratio to bare", "compile s")
    rows = []
    for rate in rates:
        spread = f"{rate.low:,.0f} - {rate.high:,.0f}"
        ratio = f"{rate.median / bare:.3g}" if bare else "-"
        compiled = f"{rate.compile_seconds:.1f}"
        rows.append((rate.name, f"{rate.median:,.0f}", spread, rate.unit, ratio, compiled))
    title = f"{env.spec.name} on {env.spec.backend}"
    console.print(terminal_table(title, header, rows, left=("what", "unit"), wrap=True))
    if options.json is not None:
        ratios = [{"ratio_to_bare": rate.median / bare if bare else None} for rate in rates]
        figures = [rate._asdict() | ratio for rate, ratio in zip(rates, ratios, strict=True)]
        write_json(options, env=env.spec.name, backend=env.spec.backend, rates=figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
