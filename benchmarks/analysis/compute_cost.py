"""What a run cost, in env steps and in floating-point operations of its networks.

Counted from the tables of the run, with A and C the weights of the actor and of the critic, as
many as before pruning, because masks only simulate sparsity:

    forward pass                      2 FLOPs per weight
    gradient                          3 forward passes: one forward, and backward as 2
    training, per env step            2 (A + C) + epochs * 6 (A + C)
        SA-PPO by an attack           + epochs * (STEPS + 1) * 6 A; the convex bound is not counted
    learning adversaries, per env step  2 A + passes * 6 N, with N the weights that learn
    choosing and evaluation, per env step  2 A * (3 + queries + 3 * gradients)

The 3 are the action distributions of the true observation, of the attacked one, and of the action.
Learners of adversaries have networks as large as the victim's: N = A + C by PPO, C of a critic, A
of a clone; members that share their data (Robust Sarsa) each go over it. Steps on which members
are chosen are an estimate: their episodes last as long as those of the report. Not counted are
biases, activations, optimisers, physics, certificates, diagnosis, and lanes that wait for
the last episodes of a queue.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.analysis.curves import Columns
from benchmarks.runtime.run_folder import Json
from jaxprune.attacks import ATTACKS, AttackConfig, SelectionConfig, facts_of, make_attack
from jaxprune.ppo import REGIMES, Additions, PPOConfig


class Stage(NamedTuple):
    """What one stage cost."""

    name: str
    env_steps: float
    flops: float  # NaN: not known


class Weights(NamedTuple):
    """Weights of the networks of one policy; of an agent of any method as many."""

    actor: int
    critic: int

    @property
    def both(self) -> int:
        """Of both."""
        return self.actor + self.critic


class Asked(NamedTuple):
    """What an attack does at every attacked step."""

    queries: float
    gradients: float
    simulated: float


def compute(
    returns: Columns,
    training: Columns,
    attacks: Columns,
    sparsity: Columns,
    settings: Json,
) -> list[Stage]:
    """Every stage that cost anything.

    Args:
        returns: the table of returns.
        training: {} where nothing was trained.
        attacks: {} where nothing is known of them; they are then counted as asking nothing.
        sparsity: tells the sizes of the networks.
        settings: of the experiment; {} leaves the FLOPs of training unknown.
    """
    weights = weights_of(sparsity)
    stages = []
    if training:
        stages.append(_training(training, weights, settings.get("ppo", {})))
    if attacks:
        stages += [_learning(attacks, weights, settings.get("attack", {}))]
        selection = SelectionConfig(**settings.get("attack", {}).get("selection", {}))
        stages += [_choosing(attacks, returns, weights, selection)]
    stages.append(_evaluation(attacks, returns, weights))
    return [stage for stage in stages if stage.env_steps]


def total(stages: list[Stage]) -> Stage:
    """Of the whole run."""
    return Stage("all", sum(s.env_steps for s in stages), sum(s.flops for s in stages))


def weights_of(sparsity: Columns) -> Weights:
    """From the table of sparsity; a policy may have no critic."""
    sizes = dict(zip(sparsity["layer"].tolist(), sparsity["size"].tolist(), strict=True))
    return Weights(int(sizes.get("actor", 0)), int(sizes.get("critic", 0)))


def _training(training: Columns, weights: Weights, learner: Json) -> Stage:
    last = training["iteration"] == training["iteration"].max()
    steps = training["env_steps"][last].astype(float)
    if "epochs" not in learner:
        return Stage("training", steps.sum(), np.nan)
    epochs = learner["epochs"]
    plain = 2 * weights.both + epochs * 6 * weights.both
    config = PPOConfig(regulariser=learner.get("regulariser", PPOConfig.regulariser))
    adds = [_additions(regime, config) for regime in training["regime"][last].tolist()]
    turns = np.array([1 + added.turns for added in adds])
    passes = np.array([epochs * added.row_passes + added.step_passes for added in adds])
    each = plain * turns + 6 * weights.actor * passes
    return Stage("training", float((steps * turns).sum()), float((steps * each).sum()))


def _additions(regime: str, config: PPOConfig) -> Additions:
    """Returns what a regime adds; of one that is not registered, nothing."""
    return REGIMES[regime].adds(config) if regime in REGIMES else Additions()


def _learning(attacks: Columns, weights: Weights, config: Json) -> Stage:
    steps = flops = 0.0
    for name, rows in _groups(attacks):
        radii = np.unique(attacks["eps"][rows])
        if not _per_eps(name):  # one preparation served all radii
            rows = rows & (attacks["eps"] == radii[0])
        spent = float(attacks["env_steps"][rows].sum())
        steps += spent
        flops += spent * 2 * weights.actor
        learns = facts_of(name).learns
        if learns is not None:
            passes = config.get(learns.section, {}).get(learns.passes, 0)
            passes *= int(attacks["members"][rows][0]) if learns.shared else 1
            flops += spent * passes * 6 * getattr(weights, learns.network)
    return Stage("learning adversaries", steps, flops)


def _choosing(
    attacks: Columns, returns: Columns, weights: Weights, selection: SelectionConfig
) -> Stage:
    steps = flops = 0.0
    for name, rows in _groups(attacks):
        episodes = selection.played(int(attacks["members"][rows][0]))
        for eps in np.unique(attacks["eps"][rows]):
            cells = int((attacks["eps"][rows] == eps).sum())
            played = (returns["attack"] == name) & (returns["eps"] == eps)
            length = returns["length"][played].mean()
            each = float(cells * episodes * length)
            asked = _asked(attacks, name)
            steps += each * (1 + asked.simulated)
            flops += each * _acting(asked, weights)
    return Stage("choosing their members", steps, flops)


def _evaluation(attacks: Columns, returns: Columns, weights: Weights) -> Stage:
    steps = flops = 0.0
    for name in dict.fromkeys(returns["attack"].tolist()):
        length = float(returns["length"][returns["attack"] == name].sum())
        asked = _asked(attacks, name)
        steps += length * (1 + asked.simulated)
        flops += length * _acting(asked, weights)
    return Stage("evaluation", steps, flops if attacks else np.nan)


def _acting(asked: Asked, weights: Weights) -> float:
    """FLOPs of one attacked step."""
    return 2 * weights.actor * (3 + asked.queries + 3 * asked.gradients)


def _asked(attacks: Columns, name: str) -> Asked:
    rows = np.flatnonzero(attacks["attack"] == name) if attacks else np.zeros(0, int)
    if not rows.size:
        return Asked(0, 0, 0)
    return Asked(*(float(attacks[column][rows[0]]) for column in Asked._fields))


def _groups(attacks: Columns) -> list[tuple[str, np.ndarray]]:
    names = dict.fromkeys(attacks["attack"].tolist())
    return [(name, attacks["attack"] == name) for name in names]


def _per_eps(name: str) -> bool:
    """Whether an attack is prepared for every radius; one that is not ours is taken to be."""
    return name not in ATTACKS or make_attack(name, AttackConfig()).per_eps
