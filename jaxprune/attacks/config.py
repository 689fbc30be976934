"""Settings of all attacks: one frozen dataclass per family."""

from dataclasses import dataclass, field

from jaxprune.families import InputError, at_least_one, lookup

STARTS = ("fresh", "rs")  # of learned adversaries


@dataclass(frozen=True)
class MADConfig:
    """Projected gradient ascent in the ball: of MAD, and of every attack that climbs likewise."""

    steps: int = 10
    """Gradient evaluations per restart."""
    step_scale: float = 2.5
    """Step size in units of eps / steps; above 1 an iterate can cross the ball."""
    restarts: int = 5
    """Independent random starts; the best iterate of all is used. One start alone is beaten by
    random corners at most states of a trained Hopper policy."""

    def check(self) -> None:
        """Raises `InputError` for fewer than one step or restart, or a step that goes nowhere."""
        at_least_one(self, ("steps", "restarts"), "mad")
        if not self.step_scale > 0:
            raise InputError(f"mad step_scale {self.step_scale} is not positive: 2.5 is usual")


@dataclass(frozen=True)
class SearchConfig:
    """The attacks that ask at points: the policy, its clone, or the simulator."""

    queries: int = 256
    """Points at which the policy is asked, per attacked step."""
    generations: int = 8
    """Of the evolution strategy, over which the queries are spread."""
    simulated: int = 16
    """Points from which `lookahead` simulates one step, per attacked step."""
    clone_steps: int = 32_768
    """Environment steps at which the snooping attack watches its victim."""
    clone_epochs: int = 20
    """Passes over them in which it learns its clone."""

    def check(self) -> None:
        """Raises `InputError` unless every generation has the two points it needs at least."""
        at_least_one(self, ("generations",), "search")
        if self.simulated < 2:
            raise InputError(
                f"search simulated {self.simulated} is below 2: give at least 2, of which one is "
                "no perturbation"
            )
        if self.clone_steps < 256 or self.clone_epochs < 1:
            raise InputError(
                f"search clone_steps {self.clone_steps} and clone_epochs {self.clone_epochs} are "
                "too few to learn a clone: give at least 256 and 1"
            )
        if self.queries < 2 * self.generations:
            raise InputError(
                f"search queries {self.queries} are too few for {self.generations} generations of "
                f"2 or more: give at least {2 * self.generations}"
            )


@dataclass(frozen=True)
class SarsaConfig:
    """Robust Sarsa: the action values that critic attacks descend."""

    steps: int = 61_440
    """Environment steps of data per victim, shared by its critics."""
    num_envs: int = 32
    """Environments per victim."""
    epochs: int = 8
    """Passes over the data."""
    batch: int = 256
    """Transitions per gradient step."""
    learning_rate: float = 1e-3
    """Of Adam; constant for the first two thirds of training, then linear to 0."""
    polyak: float = 0.2
    """Share of the critic that its target network takes over per gradient step."""
    radii: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    """Of the ball around the action in which a critic must not change: one critic each ..."""
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """... with each weight of that penalty."""
    rounds: int = 4
    """Of `rs_adversarial`: data collected under the attack by the critic of the round before."""

    def check(self) -> None:
        """Raises `InputError` for a budget too small to train a critic, or a meaningless one."""
        at_least_one(self, ("num_envs", "epochs", "batch", "rounds"), "rs")
        needed = max(self.batch, 2 * self.num_envs) * self.rounds
        if self.steps < needed:
            raise InputError(
                f"rs steps {self.steps} are too few to train a critic: give at least {needed}, a "
                "batch and two steps of every environment in each round"
            )
        if not self.radii or not self.weights or min(*self.radii, *self.weights) < 0:
            raise InputError(
                f"rs radii {self.radii} and weights {self.weights} need a number >= 0 each"
            )
        if not self.learning_rate > 0:
            raise InputError(
                f"rs learning_rate {self.learning_rate} is not positive: 1e-3 is usual"
            )
        if not 0 < self.polyak <= 1:
            raise InputError(f"rs polyak {self.polyak} is outside (0, 1]: 0.2 is usual")


@dataclass(frozen=True)
class AdversaryConfig:
    """Learned adversaries: policies trained by PPO on the victim's negated reward."""

    steps: int = 500_000
    """Environment steps per member."""
    num_envs: int = 16
    """Environments per member."""
    unroll: int = 128
    """Steps per environment and iteration."""
    epochs: int = 10
    """Passes over the data of an iteration."""
    minibatches: int = 16
    """Gradient steps per pass."""
    starts: tuple[str, ...] = ("fresh", "rs")
    """One member that starts freshly drawn, and one that starts as an imitation of Robust Sarsa
    (its settings are those of `rs`; one more member is the imitation itself) ..."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """... with each learning rate ..."""
    log_stds: tuple[float, ...] = (-1.0, 0.0)
    """... with each initial log standard deviation ..."""
    seeds: int = 1
    """... and each seed."""
    entropy_weight: float = 0.0
    """Of the entropy bonus."""
    actor_steps: int = 3
    """Gradient steps of PA-AD's actor, per attacked step."""
    warm_start: bool = False
    """Start at each sparsity from the adversaries of the next lower one of its curve, and these
    from those of the unpruned agent; the tables say so."""

    def check(self) -> None:
        """Raises `InputError` for a budget too small to train an adversary."""
        counts = ("num_envs", "unroll", "epochs", "minibatches", "seeds", "actor_steps")
        at_least_one(self, counts, "adversary")
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
        if not self.learning_rates or not min(self.learning_rates) > 0 or not self.log_stds:
            raise InputError(
                f"adversary learning_rates {self.learning_rates} and log_stds {self.log_stds} need "
                "one number each, rates above 0"
            )


@dataclass(frozen=True)
class AttackConfig:
    """Settings of every attack."""

    mad: MADConfig = field(default_factory=MADConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    rs: SarsaConfig = field(default_factory=SarsaConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    def check(self) -> None:
        """Raises `InputError` for the first setting that no attack could honour."""
        for settings in (self.mad, self.search, self.rs, self.adversary):
            settings.check()
