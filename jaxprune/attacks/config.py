"""Settings of all attacks: one frozen dataclass per family."""

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Annotated

from jaxprune.validation import (
    COUNT,
    DISCOUNT,
    FACTOR,
    LEARNING_RATE,
    LOG_STD,
    RADIUS,
    WEIGHT,
    InputError,
    Range,
    at_least,
    check_ranges,
    lookup,
)

# What is repeated at every attacked step, or over all data.
LOOP = at_least(1, 10**6)
USUAL_GAMMA = 0.99  # of learners whose settings are unknown
STARTS = ("fresh", "rs", "director")  # of learned adversaries


# How often the better half of the members goes on, before the finalists do.
HALVINGS = 2


@dataclass(frozen=True)
class SelectionConfig:
    """The rounds in which the member of an attack is chosen that a victim meets.

    All members play the first round, the better half the second, the better half of these the
    third, and finalists the last. The mean over all rounds decides. Their episodes are never
    reported. A member that was lucky once has to be lucky again, and few episodes go to bad ones.
    """

    episodes: Annotated[int, COUNT] = 2
    """Episodes of every round but the last."""
    finalists: Annotated[int, COUNT] = 4
    """Members that play the last round; as many are never left out before."""
    final_episodes: Annotated[int, COUNT] = 8
    """Episodes of the last round."""

    def check(self) -> None:
        """Raises `InputError` for a setting out of its range."""
        check_ranges(self, "selection")

    @property
    def rounds(self) -> tuple[int, ...]:
        """Returns the episodes of each round."""
        return (self.episodes,) * (1 + HALVINGS) + (self.final_episodes,)

    def playing(self, members: int) -> list[int]:
        """Returns how many of the members play each round."""
        finalists = min(members, self.finalists)
        halved = [max(math.ceil(members / 2**i), finalists) for i in range(1 + HALVINGS)]
        return [*halved, finalists]

    def played(self, members: int) -> int:
        """Returns the episodes that so many members play together; a single one is no choice."""
        if members == 1:
            return 0
        return sum(map(operator.mul, self.playing(members), self.rounds))


@dataclass(frozen=True)
class MADConfig:
    """Projected gradient ascent in the ball: of MAD, and of every attack that climbs likewise."""

    steps: Annotated[int, LOOP] = 10
    """Gradient evaluations per restart."""
    step_scale: Annotated[float, FACTOR] = 2.5
    """Step size in units of eps / steps; above 1 an iterate can cross the ball."""
    restarts: Annotated[int, LOOP] = 5
    """Independent random starts; the best iterate of all is used. One start alone is beaten by
    random corners at most states of a trained Hopper policy."""

    def check(self) -> None:
        """Raises `InputError` for a setting out of its range."""
        check_ranges(self, "mad")


@dataclass(frozen=True)
class SearchConfig:
    """The attacks that ask at points: the policy, its clone, or the simulator."""

    queries: Annotated[int, at_least(2, 10**6)] = 256
    """Points at which the policy is asked, per attacked step."""
    generations: Annotated[int, COUNT] = 8
    """Of the evolution strategy, over which the queries are spread."""
    simulated: Annotated[int, at_least(2, 10**6)] = 16
    """Points from which `lookahead` simulates one step, per attacked step; one of them is no
    perturbation."""
    clone_steps: Annotated[int, at_least(256)] = 32_768
    """Environment steps at which the snooping attack watches its victim."""
    clone_epochs: Annotated[int, LOOP] = 20
    """Passes over them in which it learns its clone."""

    def check(self) -> None:
        """Raises `InputError` unless every generation has the two points it needs at least."""
        check_ranges(self, "search")
        if self.queries < 2 * self.generations:
            raise InputError(
                f"search queries {self.queries} are too few for {self.generations} generations of "
                f"2 or more: give at least {2 * self.generations}"
            )


@dataclass(frozen=True)
class DirectorConfig:
    """Where the victim's output is pushed: a fixed direction, or a linear function of the state."""

    actor_steps: Annotated[int, LOOP] = 3
    """Gradients by which the output is pushed there, per attacked step; of PA-AD's actor too."""
    directions: Annotated[int, COUNT] = 64
    """Fixed directions that are tried in tasks of more than three continuous actions: the axes and
    so many random signs as are left."""
    individuals: Annotated[int, at_least(8, 10**5)] = 32
    """Linear directors of a generation of the cross-entropy method."""
    episodes: Annotated[int, COUNT] = 2
    """Of each of them."""
    generations: Annotated[int, COUNT] = 18
    """After three calls of the same size that choose the fixed direction to start from."""
    elite: Annotated[float, Range(0, 1, "(]")] = 0.25
    """Share of a generation whose mean and deviation are the next ones."""
    kernel_deviation: Annotated[float, FACTOR] = 0.5
    """First deviation of the coefficients of the observation ..."""
    bias_deviation: Annotated[float, FACTOR] = 1.0
    """... and of the constant direction."""
    renewal: Annotated[float, Range(0, 1, "(]")] = 0.7
    """Share of the deviation that a generation renews."""
    extra_deviation: Annotated[float, FACTOR] = 0.05
    """Added to the deviation of the elite, lest the search stops early."""
    inputs: Annotated[int, COUNT] = 32
    """Numbers that a linear director sees of a longer observation."""

    def check(self) -> None:
        """Raises `InputError` for a setting out of its range."""
        check_ranges(self, "director")


@dataclass(frozen=True)
class SarsaConfig:
    """Robust Sarsa: the action values that critic attacks descend."""

    steps: Annotated[int, COUNT] = 61_440
    """Environment steps of data per victim, shared by its critics."""
    num_envs: Annotated[int, COUNT] = 32
    """Environments per victim."""
    epochs: Annotated[int, LOOP] = 8
    """Passes over the data."""
    batch: Annotated[int, COUNT] = 256
    """Transitions per gradient step."""
    learning_rate: Annotated[float, LEARNING_RATE] = 1e-3
    """Of Adam; constant for the first two thirds of training, then linear to 0."""
    gamma: Annotated[float | None, DISCOUNT] = None
    """Discount of the values; default: the learner's, and 0.99 for a policy file."""
    polyak: Annotated[float, Range(0, 1, "(]")] = 0.2
    """Share of the critic that its target network takes over per gradient step."""
    radii: Annotated[tuple[float, ...], RADIUS] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    """Of the ball around the action in which a critic must not change: one critic each ..."""
    weights: Annotated[tuple[float, ...], WEIGHT] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """... with each weight of that penalty."""
    rounds: Annotated[int, LOOP] = 4
    """Of `rs_adversarial`: data collected under the attack by the critic of the round before."""

    @property
    def discount(self) -> float:
        """Returns `gamma`, or what most learners have."""
        return USUAL_GAMMA if self.gamma is None else self.gamma

    def check(self) -> None:
        """Raises `InputError` for a budget too small to train a critic, or a meaningless one."""
        check_ranges(self, "rs")
        needed = max(self.batch, 2 * self.num_envs) * self.rounds
        if self.steps < needed:
            raise InputError(
                f"rs steps {self.steps} are too few to train a critic: give at least {needed}, a "
                "batch and two steps of every environment in each round"
            )


@dataclass(frozen=True)
class AdversaryConfig:
    """Learned adversaries: policies trained by PPO on the victim's negated reward."""

    steps: Annotated[int, COUNT] = 500_000
    """Environment steps per member."""
    num_envs: Annotated[int, COUNT] = 16
    """Environments per member."""
    unroll: Annotated[int, COUNT] = 128
    """Steps per environment and iteration."""
    epochs: Annotated[int, LOOP] = 10
    """Passes over the data of an iteration."""
    minibatches: Annotated[int, COUNT] = 16
    """Gradient steps per pass."""
    starts: tuple[str, ...] = ("fresh", "rs")
    """One member that starts freshly drawn, and one that starts as an imitation of Robust Sarsa, or
    of the best linear director (one more member is the imitation itself) ..."""
    learning_rates: Annotated[tuple[float, ...], LEARNING_RATE] = (1e-3,)
    """... with each learning rate ..."""
    log_stds: Annotated[tuple[float, ...], LOG_STD] = (-1.0, 0.0)
    """... with each initial log standard deviation ..."""
    seeds: Annotated[int, at_least(1, 1000)] = 1
    """... and each seed."""
    entropy_weight: Annotated[float, WEIGHT] = 0.0
    """Of the entropy bonus."""
    warm_start: bool = False
    """Start at each sparsity from the adversaries of the next lower one of its curve, and these
    from those of the unpruned agent; the tables say so."""

    def check(self) -> None:
        """Raises `InputError` for a budget too small to train an adversary."""
        check_ranges(self, "adversary")
        batch = self.num_envs * self.unroll
        if self.steps < batch:
            raise InputError(
                f"adversary steps {self.steps} are too few to train: one iteration is {batch}; "
                "give at least that, or fewer environments or shorter unrolls"
            )
        if batch % self.minibatches:
            raise InputError(
                f"adversary num_envs * unroll = {batch} is not a multiple of minibatches "
                f"{self.minibatches}: choose a divisor of {batch}"
            )
        if not self.starts:
            raise InputError(f"adversary starts are empty: give one or more of {list(STARTS)}")
        for start in self.starts:
            lookup(dict.fromkeys(STARTS), start, "adversary start")


@dataclass(frozen=True)
class AttackConfig:
    """Settings of every attack."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    mad: MADConfig = field(default_factory=MADConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    director: DirectorConfig = field(default_factory=DirectorConfig)
    rs: SarsaConfig = field(default_factory=SarsaConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    def check(self) -> None:
        """Raises `InputError` for the first setting that no attack could honour."""
        for section in fields(self):
            getattr(self, section.name).check()
