"""The short help of a run: the settings that most people change."""

from collections.abc import Sequence

from benchmarks.runtime.command_line import command
from benchmarks.runtime.console import make_console

HELP = """\
usage: {run} [OPTIONS]   (all: --help-all)

Train policies, prune them, attack them, certify them, report.

what
  --env NAME,...             tasks (jaxprune list envs); default hopper
  --policy FILE              a policy of yours in place of training
  --sparsity-grid A:B:N      sparsities, ends included, or a list 0,0.5,0.9
  --methods NAME,...         pruning methods (jaxprune list methods)
  --regimes NAME,...         ways of training (jaxprune list regimes)
  --controls NAME,...        narrow, rescaled, int8: what else is compared
  --attacks NAME,...         adversaries, or all (jaxprune list attacks)
  --eps E,...                radii, in normalised observations
  --bounds NAME,...          certificates (jaxprune list bounds)
how sure
  --preset NAME              smoke (2 min), laptop (5 min) or paper (hours)
  --seeds N                  agents of each kind; intervals need 5
  --episodes N               episodes of each policy under each attack
where
  --out FOLDER               default results/ENV-ID; starting again resumes
  --dry-run                  print the plan and stop
  --shard I/N                a part of the run, for a cluster
examples
  {run} --preset smoke
  {run} --env Hopper-v4 --methods magnitude,wanda --seeds 10
  {run} --policy ppo.zip --policy-stats stats.pkl
  {run} --attacks all --eps 0.05,0.1 --dry-run"""


def show_help(argv: Sequence[str]) -> None:
    """Prints the short help where it is asked for.

    Raises:
        SystemExit: after it.
    """
    if {"-h", "--help"} & set(argv):
        make_console().print(HELP.format(run=command("run")), markup=False, soft_wrap=True)
        raise SystemExit(0)
