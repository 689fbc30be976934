"""Proximal policy optimisation with pruning, as one pure function of a key.

    train = make_train(config, env, methods)          # everything static is resolved here
    agent = train(key, hyper, directives)             # everything traced goes in here
    agents = jax.vmap(train)(keys, hypers, directives)  # many agents, settings, targets

Reading order is the order of the algorithm: prune, collect, estimate advantages, update.

Source: Schulman et al. 2017 (arXiv 1707.06347) with the details of Huang et al. 2022 ("The 37
implementation details of PPO"), except that truncation is not termination: advantages bootstrap
from the state that the time limit cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxprune.envs import Environment, EnvSpec
from jaxprune.losses import Hyper, Losses, Sample, normalised, ppo_loss
from jaxprune.policy import ACTIVATIONS, init_policy
from jaxprune.ppo.advantages import make_batch, no_returns, update_stats
from jaxprune.ppo.regimes import REGIMES, Additions, Prox, ball_at
from jaxprune.ppo.robust import REGULARISERS
from jaxprune.pruning.directives import Directive, width
from jaxprune.pruning.masks import apply_masks, dense, sparsity_of
from jaxprune.pruning.methods import METHODS, Method, Target
from jaxprune.pruning.removal import next_masks
from jaxprune.pruning.scope import Scope, named_leaves
from jaxprune.pruning.scores import SCORES, Batch, dense_gradient
from jaxprune.rollout import Transition, Worker, fresh_workers, rollout
from jaxprune.types import Array, Key, Masks, ObsStats, Params, Policy
from jaxprune.validation import COUNT, LOG_STD, InputError, at_least, check_ranges, lookup

ADAM = optax.scale_by_adam(eps=1e-5)
UNITS = ("iteration", "epoch")
# Minibatches, at most, that the gradients by which weights are scored are averaged over.
SCORE_BATCHES = 32
# Folded into keys: no iteration and no epoch has these numbers.
OPPONENT, SECOND_CRITIC = 2**31 - 1, 2**31 - 2


@dataclass(frozen=True)
class PPOConfig:
    """Static settings: each selects a program. `hyper` holds the defaults of the traced ones.

    Actions are not clipped, neither in training nor later: the task gets them as they were drawn,
    and may charge more than its motors can do. A policy from a file that clips (`action_box`) goes
    on clipping while it is trained; its log-probabilities are of the draw before that.
    """

    steps: Annotated[int, at_least(1, 10**12)] = 1_000_000
    """Environment steps per agent, rounded up to whole iterations."""
    num_envs: Annotated[int, COUNT] = 32
    """Environments per agent."""
    unroll: Annotated[int, COUNT] = 64
    """Steps per environment and iteration."""
    epochs: Annotated[int, at_least(1, 10**6)] = 10
    """Passes over the data of an iteration."""
    minibatches: Annotated[int, COUNT] = 32
    """Gradient steps per pass."""
    hidden: Annotated[tuple[int, ...], at_least(1, most=16)] = (64, 64)
    """Hidden widths of actor and critic."""
    activation: str = "tanh"
    """Between layers: tanh or relu."""
    init_log_std: Annotated[float, LOG_STD] = 0.0
    """Initial log standard deviation of a Gaussian policy."""
    normalise_reward: bool = True
    """Divide rewards by the running std of the discounted return, clip at +-10."""
    scope: Scope = field(default_factory=Scope)
    """Which weights pruning may remove."""
    prune_unit: str = "iteration"
    """What an event of pruning is: iteration (before its rollout), or every epoch (an ablation:
    stored log-probabilities are stale then)."""
    regulariser: str = "pgd"
    """Of SA-PPO, how the worst observation is found: pgd, sgld or convex."""
    hyper: Hyper = field(default_factory=Hyper)
    """Traced settings."""

    @property
    def batch(self) -> int:
        """Env steps of one iteration."""
        return self.num_envs * self.unroll

    @property
    def iterations(self) -> int:
        """Iterations of one training run."""
        return -(-self.steps // self.batch)

    @property
    def events(self) -> int:
        """Events of pruning per iteration."""
        return self.epochs if self.prune_unit == "epoch" else 1

    def check(self) -> None:
        """Raises `InputError` for a setting out of its range, or two that contradict each other."""
        check_ranges(self)
        if self.batch % self.minibatches:
            raise InputError(
                f"num_envs * unroll = {self.batch} is not a multiple of minibatches "
                f"{self.minibatches}: choose a divisor of {self.batch}"
            )
        lookup(ACTIVATIONS, self.activation, "activation")
        lookup(REGULARISERS, self.regulariser, "regulariser")
        lookup(dict.fromkeys(UNITS), self.prune_unit, "prune_unit")
        self.scope.check()


class Snapshot(NamedTuple):
    """An agent on its way."""

    policy: Policy
    masks: Masks


class TrainState(NamedTuple):
    """The learner between two iterations; the last six are () where nothing asks for them."""

    policy: Policy
    masks: Masks
    opt_state: Any
    return_stats: ObsStats  # of the discounted returns, scalars
    workers: Worker  # [num_envs]
    iteration: Array  # int32 []
    key: Key
    first: Any  # Params, what training started from: to rewind to
    recent: Any  # Sample [rows], the data of the last iteration: to score weights by
    movement: Any  # Params, sum over iterations of -w * gradient
    snapshots: Any  # Snapshot [snapshots]
    opponent: Any  # the state of an adversary that learns with the agent
    second_critic: Any  # that of a critic beside the agent's


class Metrics(NamedTuple):
    """Scalars of one iteration."""

    episode_return: Array  # mean raw return of the episodes that ended; NaN if none did
    episodes: Array  # how many ended
    diverged: Array  # how many of these because the simulator left the finite numbers
    policy_loss: Array
    value_loss: Array
    entropy: Array
    kl: Array  # estimate of KL(old || new), mean of (ratio - 1) - log(ratio)
    robust: Array  # what the training regime adds to the loss, without its weight
    sparsity: Array  # fraction of the prunable weights removed


@dataclass(frozen=True, eq=False)
class Learner:
    """Training of one agent in pure functions, for callers that want to look in between."""

    config: PPOConfig
    env: Environment
    methods: tuple[Method, ...]
    snapshots: int
    additions: Additions

    @property
    def keeps_data(self) -> bool:
        """Whether a method looks at the data of the last iteration."""
        return any(m.schedule and m.needs_data for m in self.methods)

    @property
    def keeps_movement(self) -> bool:
        """Whether a score is accumulated over training."""
        return any(SCORES[m.score].needs == "training" for m in self.methods)

    @property
    def rewinds(self) -> bool:
        """Whether a method goes back to the first weights."""
        return any(m.rewind for m in self.methods)

    def fresh(self, key: Key) -> Policy:
        """Draws the policy that an agent of this key starts from."""

        # One agent at a time: orthogonal initialisation is a QR factorisation, and XLA:CPU's
        # batched one waits for threads of the pool it runs on, which hangs where every thread
        # drives a device.
        @jax.custom_batching.sequential_vmap
        def draw(key: Key) -> Policy:
            return initial_policy(self.config, self.env.spec, jax.random.split(key, 3)[0])

        return draw(key)

    def init(
        self, key: Key, hyper: Hyper, start: Directive, policy: Policy, masks: Masks
    ) -> TrainState:
        """Returns the state before the first iteration.

        Args:
            key: of the agent; consumed.
            hyper: traced settings.
            start: the first directive.
            policy: what training starts from.
            masks: what is removed from it already.
        """
        _, key_reset, key = jax.random.split(key, 3)
        state = self.unpruned(key_reset, key, policy, masks)
        count = self.config.iterations  # no key of an iteration is used twice
        if self.keeps_data:  # what the first policy does; its data only tell which weights go
            keys = jax.random.split(jax.random.fold_in(key, count), 2)
            _, steps = self._collect(keys[0], state, hyper, start)
            stats = update_stats(state.return_stats, steps.discounted_return)
            counted = state._replace(return_stats=stats)
            state = state._replace(recent=self._sample(counted, steps, hyper))
        if any(method.fires(before_training=True) for method in self.methods):
            key_prune = jax.random.fold_in(key, count + 1)
            masks = self._pruned(key_prune, state, hyper, start, before_training=True)
            state = keep_masks(state, masks)
        return state

    def iterate(
        self, state: TrainState, hyper: Hyper, directive: Directive
    ) -> tuple[TrainState, Metrics]:
        """Runs one iteration: prune, collect, estimate advantages, update."""
        keys = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)

        # The rollout already uses the masked weights, so no stored log-probability is stale.
        state = keep_masks(state, self._pruned(keys[0], state, hyper, directive))
        if self.rewinds:
            state = self._rewound(state, directive.rewind)
        state = self._opposed(state, hyper, directive)

        workers, steps = self._collect(keys[1], state, hyper, directive)
        return_stats = update_stats(state.return_stats, steps.discounted_return)
        state = state._replace(workers=workers, return_stats=return_stats)
        sample = self._sample(state, steps, hyper)
        state, sample = self._advised(keys[2], state, hyper, directive, steps, sample)

        state, losses = update(
            keys[2],
            self.config,
            self.additions,
            state,
            hyper,
            directive,
            sample,
            self._pruned,
        )
        obs_stats = update_stats(state.policy.obs_stats, steps.obs)
        state = state._replace(
            policy=replace(state.policy, obs_stats=obs_stats),
            iteration=state.iteration + 1,
        )
        state = self._remembered(state, hyper, directive, sample)
        prunable = self.config.scope.prunable(state.policy.params)
        return state, summarise(steps, losses, sparsity_of(state.masks, prunable))

    def unpruned(self, key_reset: Key, key: Key, policy: Policy, masks: Masks) -> TrainState:
        """Returns the state before anything is removed; what nobody asks for is ()."""
        nothing = jax.tree.map(jnp.zeros_like, policy.params)
        snapshots, slots = Snapshot(policy, masks), (self.snapshots,)
        return TrainState(
            policy=policy,
            masks=masks,
            opt_state=ADAM.init(policy.params),
            return_stats=no_returns(),
            workers=fresh_workers(key_reset, self.env, self.config.num_envs),
            iteration=jnp.int32(0),
            key=key,
            first=policy.params if self.rewinds else (),
            recent=(),
            movement=nothing if self.keeps_movement else (),
            snapshots=jax.tree.map(lambda x: jnp.zeros(slots + x.shape, x.dtype), snapshots)
            if self.snapshots
            else (),
            opponent=self._opponent(key, policy),
            second_critic=self._second_critic(policy),
        )

    def _remembered(
        self, state: TrainState, hyper: Hyper, directive: Directive, sample: Sample
    ) -> TrainState:
        """The state after an iteration with what later events and the caller ask for."""
        if self.keeps_data:
            state = state._replace(recent=sample)
        if self.keeps_movement:
            gradient = dense_gradient(state.policy, self._scored_on(state, hyper))
            movement = jax.tree.map(
                lambda m, w, g: m - w * g, state.movement, state.policy.params, gradient
            )
            state = state._replace(movement=movement)
        if self.snapshots:
            state = state._replace(snapshots=with_snapshot(state, directive.snapshot))
        return state

    def _rewound(self, state: TrainState, rewind: Array) -> TrainState:
        """The state at the first weights, if it is time; who learns with the agent is new then."""
        state = rewound(state, rewind)
        key = jax.random.fold_in(state.key, state.iteration)
        fresh = self._opponent(key, state.policy), self._second_critic(state.policy)
        opponent, second_critic = jax.tree.map(
            lambda x, y: jnp.where(rewind, x, y), fresh, (state.opponent, state.second_critic)
        )
        return state._replace(opponent=opponent, second_critic=second_critic)

    def _opponent(self, key: Key, policy: Policy) -> Any:
        """The opponent of the training regime as it starts, or ()."""
        if self.additions.opponent is None:
            return ()
        return self.additions.opponent.start(self, jax.random.fold_in(key, OPPONENT), policy)

    def _opposed(self, state: TrainState, hyper: Hyper, directive: Directive) -> TrainState:
        """The state after the turn of the opponent, if the regime has one."""
        if self.additions.opponent is None:
            return state
        eps = ball_at(directive.progress, hyper).eps
        learned = self.additions.opponent.learn(self, state, hyper, directive, eps)
        return state._replace(opponent=learned)

    def _second_critic(self, policy: Policy) -> Any:
        """The second critic of the training regime as it starts, or ()."""
        if self.additions.second_critic is None:
            return ()
        return self.additions.second_critic.start(policy)

    def _advised(
        self,
        key: Key,
        state: TrainState,
        hyper: Hyper,
        directive: Directive,
        steps: Transition,
        sample: Sample,
    ) -> tuple[TrainState, Sample]:
        """The state after the second critic has learned, and the advantages that it moved."""
        second = self.additions.second_critic
        if second is None:
            return state, sample
        key, eps = jax.random.fold_in(key, SECOND_CRITIC), ball_at(directive.progress, hyper).eps
        critic = second.learn(key, self, state, hyper, directive, eps, steps)
        state = state._replace(second_critic=critic)
        return state, second.advise(critic, state.policy, hyper, directive, sample)

    def _collect(
        self, key: Key, state: TrainState, hyper: Hyper, directive: Directive
    ) -> tuple[Worker, Transition]:
        """The steps of an iteration."""
        disturb, unroll, perturb = self.additions.disturb, self.config.unroll, None
        if self.additions.opponent is not None:
            disturb = partial(self.additions.opponent.disturb, state.opponent)
        if disturb is not None:
            eps = ball_at(directive.progress, hyper).eps
            perturb = lambda key, policy, obs_norm: disturb(key, policy, obs_norm, eps)  # noqa: E731
        return rollout(key, self.env, state.policy, hyper.gamma, state.workers, unroll, perturb)

    def _sample(self, state: TrainState, steps: Transition, hyper: Hyper) -> Sample:
        return make_batch(state.policy, steps, hyper, self.normalising(state))

    def normalising(self, state: TrainState) -> ObsStats | None:
        """Returns the statistics of the returns, if rewards are normalised by them."""
        return state.return_stats if self.config.normalise_reward else None

    def _scored_on(self, state: TrainState, hyper: Hyper) -> Batch:
        """The data of the last iteration in minibatches."""
        rows = self.config.batch
        count = next(n for n in range(min(SCORE_BATCHES, rows), 0, -1) if rows % n == 0)
        sample = jax.tree.map(lambda x: x.reshape(count, rows // count, *x.shape[1:]), state.recent)
        movement = state.movement if self.keeps_movement else None
        return Batch(sample, hyper, self.env.spec.eps, movement)

    def _pruned(
        self,
        key: Key,
        state: TrainState,
        hyper: Hyper,
        directive: Directive,
        event: Array | int = 0,
        before_training: bool = False,
    ) -> Masks:
        """The masks after an event by the agent's own method, if it fires; see `Method.fires`."""
        scope = self.config.scope
        batch = self._scored_on(state, hyper) if self.keeps_data else None
        counts = directive.counts[event]

        def by(method: Method) -> Masks:
            if not method.fires(before_training):
                return state.masks
            leaves = width([method], state.policy.params, scope)
            target = Target(directive.groups[:leaves], counts[:leaves])
            policy, masks = state.policy, state.masks
            return next_masks(method, scope, policy, masks, batch, target, key, directive.drop)

        branches = [partial(by, method) for method in self.methods]
        if len(branches) == 1:
            return branches[0]()
        return jax.lax.switch(directive.method, branches)


def make_train(
    config: PPOConfig,
    env: Environment,
    methods: Sequence[Method] = (METHODS["none"],),
    snapshots: int = 0,
    regime: str = "ppo",
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training function of one agent: pure, so `jit`, `vmap` and shard it as you like.

    Args:
        config: static settings.
        env: the task.
        methods: of pruning, among which every agent's directives choose.
        snapshots: how many moments of an agent can be kept on the way.
        regime: a key of `REGIMES`: how the agent is trained.

    Returns:
        `train(key, hyper, directives=None) -> (TrainState, Metrics [iterations])`. `directives`,
        `[iterations, ...]` from `jaxprune.pruning.make_directives`, say what goes when; None
        trains a dense agent by the same program. The key is consumed.

    Raises:
        InputError: settings out of their range, or that contradict each other. Of traced ones no
            range is checked.
    """
    learner = make_learner(config, env, methods, snapshots, regime)

    def train(key: Key, hyper: Hyper, directives: Directive | None = None):
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves(hyper)):
            check_ranges(hyper)
        if hyper.sa_eps is None:
            hyper = replace(hyper, sa_eps=env.spec.eps)
        policy = learner.fresh(key)
        if directives is None:
            directives = dense_directives(config, methods, policy.params)
        first = jax.tree.map(lambda x: x[0], directives)
        return jax.lax.scan(
            lambda state, directive: learner.iterate(state, hyper, directive),
            learner.init(key, hyper, first, policy, dense(policy.params)),
            directives,
        )

    return train


def dense_directives(config: PPOConfig, methods: Sequence[Method], params: Params) -> Directive:
    """Orders to remove nothing, `[iterations, ...]`."""
    count, leaves = config.iterations, width(methods, params, config.scope)
    return Directive(
        method=jnp.zeros(count, jnp.int32),
        groups=jnp.zeros((count, leaves), jnp.int32),
        counts=jnp.zeros((count, config.events, leaves), jnp.int32),
        drop=jnp.zeros(count),
        rewind=jnp.zeros(count, bool),
        progress=jnp.arange(count) / count,
        snapshot=jnp.full(count, jnp.iinfo(jnp.int32).max),
    )


def make_learner(
    config: PPOConfig,
    env: Environment,
    methods: Sequence[Method] = (METHODS["none"],),
    snapshots: int = 0,
    regime: str = "ppo",
) -> Learner:
    """The parts of `make_train`. Raises `InputError` for settings that contradict each other."""
    config.check()
    additions = lookup(REGIMES, regime, "regime").adds(config)
    return Learner(config, env, tuple(methods), snapshots, additions)


def keep_masks(state: TrainState, masks: Masks) -> TrainState:
    """The state with new masks: what they remove is +0, and what they change has no momentum."""
    both = jax.tree.map(jnp.logical_and, masks, state.masks)
    moments = state.opt_state
    moments = moments._replace(mu=apply_masks(moments.mu, both), nu=apply_masks(moments.nu, both))
    policy = replace(state.policy, params=apply_masks(state.policy.params, masks))
    return state._replace(policy=policy, masks=masks, opt_state=moments)


def rewound(state: TrainState, rewind: Array) -> TrainState:
    """Lottery tickets: the first weights under today's masks, with everything else forgotten.

    Source: Frankle and Carbin 2019 (arXiv 1803.03635).
    """
    params = apply_masks(state.first, state.masks)
    size = state.policy.obs_stats.mean
    unseen = ObsStats(jnp.zeros_like(size), jnp.ones_like(size), jnp.zeros(()))
    policy = replace(state.policy, params=params, obs_stats=unseen)
    policy, opt_state, return_stats = jax.tree.map(
        lambda new, old: jnp.where(rewind, new, old),
        (policy, ADAM.init(params), no_returns()),
        (state.policy, state.opt_state, state.return_stats),
    )
    return state._replace(policy=policy, opt_state=opt_state, return_stats=return_stats)


def with_snapshot(state: TrainState, slot: Array) -> Snapshot:
    """The snapshots with today's agent in a slot; a slot that is not there changes nothing."""
    return jax.tree.map(
        lambda kept, now: kept.at[slot].set(now, mode="drop"),
        state.snapshots,
        Snapshot(state.policy, state.masks),
    )


def initial_policy(config: PPOConfig, spec: EnvSpec, key: Key) -> Policy:
    """What an agent starts from; the key is consumed."""
    return init_policy(
        key,
        spec.obs_size,
        spec.action_size,
        discrete=spec.discrete,
        hidden=config.hidden,
        activation=config.activation,
        init_log_std=config.init_log_std,
    )


def update(
    key: Key,
    config: PPOConfig,
    additions: Additions,
    state: TrainState,
    hyper: Hyper,
    directive: Directive,
    batch: Sample,
    pruned: Callable[..., Masks],
) -> tuple[TrainState, Losses]:
    """`epochs` passes of `minibatches` Adam steps over the batch; removed weights stay +0.

    Gradients are masked *before* the norm is clipped (dead entries must not shrink live steps) and
    weights *after* Adam (its momentum must not revive an entry). A weight that grows anew has no
    moments, so late in training its first step is up to (1 - b1) / sqrt(1 - b2) = 3.2 rates long.

    Args:
        key: consumed.
        config: static settings.
        additions: of the training regime.
        state: with the masks of this iteration.
        hyper: traced settings.
        directive: of this iteration.
        batch: `Sample [rows]`.
        pruned: (key, state, hyper, directive, event) -> masks, for events after the first.
    """
    rows = batch.advantage.shape[0]
    decay = 1 - (1 - hyper.final_learning_rate) * directive.progress
    rate = hyper.learning_rate * decay
    decays = decayed(state.policy.params, config.scope)
    loss = partial(total_loss, additions, state.policy, hyper, directive.progress)
    minibatch = partial(adam_step, loss, additions.prox, hyper, rate, decays, batch)

    def epoch(carry, xs: tuple[Key, Array]):
        params, masks, opt_state = carry
        key, number = xs
        key_order, key_loss, key_prune = jax.random.split(key, 3)
        if config.events > 1:  # at the first the masks are those of the rollout
            now = with_weights(state, params, masks, opt_state)
            now = keep_masks(now, pruned(key_prune, now, hyper, directive, number))
            params, masks, opt_state = now.policy.params, now.masks, now.opt_state
        order = jax.random.permutation(key_order, rows).reshape(config.minibatches, -1)
        keys = jax.random.split(key_loss, config.minibatches)
        steps = partial(minibatch, masks)
        (params, opt_state), losses = jax.lax.scan(steps, (params, opt_state), (order, keys))
        return (params, masks, opt_state), losses

    carry = (state.policy.params, state.masks, state.opt_state)
    xs = (jax.random.split(key, config.epochs), jnp.arange(config.epochs))
    carry, losses = jax.lax.scan(epoch, carry, xs)
    return with_weights(state, *carry), jax.tree.map(jnp.mean, losses)


def adam_step(
    loss: Callable[..., tuple[Array, Losses]],
    prox: Prox | None,
    hyper: Hyper,
    rate: Array,
    decays: Params,
    batch: Sample,
    masks: Masks,
    carry: tuple[Params, Any],
    xs: tuple[Array, Key],
) -> tuple[tuple[Params, Any], Losses]:
    """One Adam step on a minibatch, the body of a scan; see `update`.

    Args:
        loss: (params, sample, key) -> (loss, its parts).
        prox: what is done to the kernels after Adam; None: nothing.
        hyper: traced settings.
        rate: the learning rate, `[]`.
        decays: 1 for the leaves that weight decay and prox act on, 0 for the others.
        batch: `Sample [rows]`.
        masks: of the weights that stay.
        carry: weights and Adam's moments.
        xs: the rows of the minibatch, int `[B]`, and a key, which is consumed.
    """
    params, opt_state = carry
    indices, key = xs
    sample = jax.tree.map(lambda x: x[indices], batch)
    grads, losses = jax.grad(loss, has_aux=True)(params, sample, key)
    grads = apply_masks(grads, masks)
    shrink = jnp.minimum(1.0, hyper.max_grad_norm / (optax.tree.norm(grads) + 1e-8))
    direction, opt_state = ADAM.update(jax.tree.map(lambda g: shrink * g, grads), opt_state)
    params = jax.tree.map(
        lambda w, d, on: w - rate * (d + on * hyper.weight_decay * w), params, direction, decays
    )
    if prox is not None:
        params = jax.tree.map(lambda w, on: prox(w, rate, hyper) if on else w, params, decays)
    return (apply_masks(params, masks), opt_state), losses


def with_weights(state: TrainState, params: Params, masks: Masks, opt_state: Any) -> TrainState:
    """The state with other weights."""
    policy = replace(state.policy, params=params)
    return state._replace(policy=policy, masks=masks, opt_state=opt_state)


def total_loss(
    additions: Additions,
    policy: Policy,
    hyper: Hyper,
    progress: Array,
    params: Params,
    sample: Sample,
    key: Key,
) -> tuple[Array, Losses]:
    """PPO's loss of a minibatch `[B]`, with what the training regime minimises beside it."""
    defence = additions.defence
    if defence is None:
        return ppo_loss(params, policy, hyper, sample)
    clean, weight = additions.weights(hyper)
    total, losses = ppo_loss(params, policy, hyper, sample, clean)
    policy, ball = replace(policy, params=params), ball_at(progress, hyper)
    keys = jax.random.split(key, len(sample.advantage))
    each = jax.vmap(lambda key, row, advantage: defence(key, policy, row, advantage, hyper, ball))
    values = each(keys, sample, normalised(sample.advantage))
    robust = additions.average(values, hyper)
    return total + weight * robust, losses._replace(robust=robust)


def decayed(params: Params, scope: Scope) -> Params:
    """1 for the leaves that weight decay acts on, 0 for the others."""
    prunable = scope.prunable(params)
    on = [float(prunable(name)) for name, _ in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), on)


def summarise(steps: Transition, losses: Losses, sparsity: Array) -> Metrics:
    """One iteration's scalars."""
    done = steps.terminated | steps.truncated
    episodes = jnp.sum(done)
    mean_return = jnp.sum(jnp.where(done, steps.episode_return, 0.0)) / episodes  # NaN if none
    diverged = jnp.sum(steps.diverged)
    return Metrics(mean_return, episodes, diverged, *losses, sparsity)
