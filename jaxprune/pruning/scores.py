"""How much each weight deserves to stay: `score(policy, batch, key) -> tree like policy.params`.

Higher means keep. Every function is written for one agent whose removed weights are +0 already, and
is pure: `vmap` gives many agents. In the formulas w is a weight, L the loss of PPO and g = dL/dw.
Scores that look at nothing but the weights take None for a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.losses import Hyper, Sample, ppo_loss
from jaxprune.pgd import ascend
from jaxprune.policy import (
    ACTIVATIONS,
    action_distribution,
    affine_layers,
    inverse_std,
    state_value,
)
from jaxprune.types import Array, Key, Params, Policy, PyTree

# Of `adversary`: gradient steps, and their length in units of eps / steps.
STEPS, STEP_SCALE = 10, 2.5
# Of `certificate`: weights with a smaller share in the bound count as free.
LEAST_SHARE = 1e-20


class Batch(NamedTuple):
    """What data-driven scores look at: M on-policy minibatches of B samples."""

    sample: Sample  # [M, B]
    hyper: Hyper  # of the loss
    eps: Array | float  # [], radius of the l_inf ball in normalised units; of `adversary`
    movement: Params | None = None  # sum over training of -w g, one term per PPO iteration


def constant(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """0. Every weight deserves the same; the neutral member, ties are broken at random."""
    del batch, key  # the score of nothing depends on nothing
    return jax.tree.map(jnp.zeros_like, policy.params)


def magnitude(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """|w|. Small weights go first.

    Source: Han et al. 2015 (arXiv 1506.02626).
    """
    del batch, key  # the weights themselves are the score
    return jax.tree.map(jnp.abs, policy.params)


def random(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """U(0, 1) per weight: the control that any other score has to beat."""
    del batch  # no data
    leaves, treedef = jax.tree.flatten(policy.params)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.uniform(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, draws)


def layer_magnitude(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """|w| / ||W||_F, leaf by leaf; a leaf of zeros scores 0.

    Magnitude that may be compared between layers of different scale.

    Source: what JaxPruner (Lee et al. 2023, arXiv 2304.14082) calls global magnitude.
    """
    del batch, key

    def of_leaf(w: Array) -> Array:
        relative = _relative(w)  # the largest is 1, so the norm is at least 1
        return relative / jnp.maximum(jnp.sqrt(jnp.sum(relative**2)), 1.0)

    return jax.tree.map(of_leaf, policy.params)


def lamp(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """w_i^2 / sum_{j: |w_j| >= |w_i|} w_j^2, leaf by leaf; zeros score 0.

    The share of w_i in what is left of its layer when everything smaller has gone. The largest
    weight of a layer scores 1 (unless it has equals), so a global ranking empties no layer before
    the others. The sum runs over all weights of equal size, w_i among them: they score the same.

    Source: Lee et al. 2021 (arXiv 2010.07611), which breaks ties by index.
    """
    del batch, key

    def of_leaf(w: Array) -> Array:
        square = jnp.ravel(_relative(w) ** 2)  # the score is free of scale
        ordered = jnp.sort(square)
        at_least = jnp.cumsum(ordered[::-1])[::-1]
        total = at_least[jnp.searchsorted(ordered, square)]  # from the first of its equals on
        return jnp.reshape(_ratio(square, total), w.shape)

    # log_std of a categorical policy has no entry to look for.
    return jax.tree.map(lambda w: of_leaf(w) if w.size else w, policy.params)


def saliency(policy: Policy, batch: Batch, key: Key) -> Params:
    """|w g|, g averaged over the minibatches: by how much L changes if w goes, to first order.

    One minibatch is not enough: its policy gradient is mostly noise.

    Source: Mozer and Smolensky 1988; Molchanov et al. 2017 (arXiv 1611.06440).
    """
    del key
    return jax.tree.map(lambda w, g: jnp.abs(w * g), policy.params, dense_gradient(policy, batch))


def snip(policy: Policy, batch: Batch, key: Key) -> Params:
    """|dL/dm| / sum |dL/dm| at m = 1, with weights m w, on all samples as one batch.

    The connection sensitivity, |w g| up to a factor: meant for a policy before training.

    Source: Lee et al. 2019 (arXiv 1810.02340).
    """
    del key
    params = policy.params
    ones = jax.tree.map(jnp.ones_like, params)
    sensitivity = jax.grad(
        lambda gates: _loss(policy, batch.hyper)(
            jax.tree.map(jnp.multiply, gates, params), _together(batch.sample)
        )
    )(ones)
    total = jnp.sum(jnp.stack([jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(sensitivity)]))
    return jax.tree.map(lambda x: _ratio(jnp.abs(x), total), sensitivity)


def grasp(policy: Policy, batch: Batch, key: Key) -> Params:
    """w (H g), H the Hessian of L, on all samples as one batch. Signed.

    Removing w changes ||g||^2 by -2 w (H g) to first order: what stays is what the flow of the
    gradient needs. The paper's S is the negative, and it removes the largest S. g is that of all
    weights, removed ones too: meant for a dense policy before training.

    Source: Wang et al. 2020 (arXiv 2002.07376).
    """
    del key
    loss, sample = _loss(policy, batch.hyper), _together(batch.sample)
    gradient = lambda params: jax.grad(loss)(params, sample)  # noqa: E731
    curvature = jax.jvp(gradient, (policy.params,), (gradient(policy.params),))[1]
    return jax.tree.map(jnp.multiply, policy.params, curvature)


def synflow(policy: Policy, batch: Batch | None, key: Key) -> Params:
    """|w| dR/d|w|, R the sum of the outputs of the networks with |w| and |b|, fed all ones.

    The part of R that flows through w. Each network has its own R. Activations are the identity:
    tanh would saturate under absolute weights, and ReLU does nothing to them. The score is meant
    to be taken anew after every one of many small steps.

    Source: Tanaka et al. 2020 (arXiv 2006.05467).
    """
    del batch, key
    size = jax.tree.map(jnp.abs, policy.params)

    def flow(size: Params) -> Array:
        total = jnp.zeros(())
        for network in (size.actor, size.critic):
            x = jnp.ones_like(policy.obs_stats.mean)
            for i in range(len(network)):
                x = x @ network[f"layer_{i}"]["kernel"] + network[f"layer_{i}"]["bias"]
            total = total + jnp.sum(x)
        return total

    return jax.tree.map(jnp.multiply, size, jax.grad(flow)(size))


def wanda(policy: Policy, batch: Batch, key: Key) -> Params:
    """|w_ij| ||x_i||, x_i the i-th input of the layer over the samples; log_std scores 0.

    What w_ij adds to its unit, typically. The norm is the root mean square, which ranks like the
    paper's l_2 norm and does not grow with the batch. The input of a bias is 1.

    Source: Sun et al. 2024 (arXiv 2306.11695).
    """
    del key
    params = policy.params

    def squares(network: dict[str, dict[str, Array]], x: Array) -> dict[str, dict[str, Array]]:
        found = {}
        for i in range(len(network)):
            layer = network[f"layer_{i}"]
            found[f"layer_{i}"] = {"kernel": jnp.mean(x**2, axis=0)[:, None], "bias": jnp.ones(())}
            x = ACTIVATIONS[policy.activation](x @ layer["kernel"] + layer["bias"])
        return found

    def of_minibatch(sample: Sample) -> Params:
        actor, critic = squares(params.actor, sample.seen), squares(params.critic, sample.obs_norm)
        return Params(actor, critic, jnp.zeros(()))

    inputs = _mean_over_minibatches(of_minibatch, batch.sample)
    return jax.tree.map(lambda w, square: jnp.abs(w) * jnp.sqrt(square), params, inputs)


def fisher(policy: Policy, batch: Batch, key: Key) -> Params:
    """w^2 E[h^2] / 2, h the gradient of log pi(a|s) or, for the critic's weights, of V(s).

    How far the action distribution moves if w goes, as KL to second order with a diagonal Fisher
    matrix; for the critic, half the squared change of the value. Actions are the policy's own, so
    that this is the Fisher matrix of the policy rather than that of the loss.

    Source: LeCun et al. 1990; Theis et al. 2018 (arXiv 1801.05787).
    """
    del key

    def outputs(params: Params, row: Sample) -> Array:
        at = replace(policy, params=params)
        # No weight is in both: one gradient serves the two networks.
        return action_distribution(at, row.seen).log_prob(row.action) + state_value(
            at, row.obs_norm
        )

    def of_minibatch(sample: Sample) -> Params:
        grads = jax.vmap(jax.grad(outputs), (None, 0))(policy.params, sample)
        return jax.tree.map(lambda h: jnp.mean(h**2, axis=0), grads)

    information = _mean_over_minibatches(of_minibatch, batch.sample)
    return jax.tree.map(lambda w, f: 0.5 * w**2 * f, policy.params, information)


def movement(policy: Policy, batch: Batch, key: Key) -> Params:
    """-sum_t w_t g_t over training. Signed: weights that training shrinks go first.

    Source: Sanh et al. 2020 (arXiv 2005.07683).
    """
    del policy, key
    assert batch.movement is not None  # that is what needs = "training" says
    return batch.movement


def certificate(policy: Policy, batch: Batch, key: Key) -> Params:
    """|w g| / share, share = |w| (dD/d|w|) / D in the path bound D of the certificates:

        D = || diag(1 / sigma) |W_L| ... |W_1| 1 ||, l_2 for a Gaussian policy, l_inf for logits

    The change of L that a weight costs per part of the bound that it frees; the shares of a layer
    add up to 1. Removed weights score 0. Weights without a share (the critic's, biases, log_std,
    those that only reach logits below the largest bound) free nothing: theirs counts as 1e-20, so
    that they stay longest, by saliency among each other.

    Source: this package.
    """
    cost = saliency(policy, batch, key)
    inv_std = inverse_std(policy)
    size = jax.tree.map(jnp.abs, policy.params)

    def half_square(size: Params) -> Array:
        reach = jnp.ones_like(policy.obs_stats.mean)
        for layer in affine_layers(replace(policy, params=size)):
            reach = layer.weight @ reach
        # Squared, for the l_2 norm has no gradient at 0.
        square = jnp.max(reach) ** 2 if inv_std is None else jnp.sum((inv_std * reach) ** 2)
        return 0.5 * square

    # d(D^2 / 2) = D dD
    half, grads = jax.value_and_grad(half_square)(size)
    shares = jax.tree.map(lambda w, slope: _ratio(w * slope, 2 * half), size, grads)
    return jax.tree.map(lambda c, share: c / jnp.maximum(share, LEAST_SHARE), cost, shares)


def adversary(policy: Policy, batch: Batch, key: Key) -> Params:
    """-w dK/dw, K = mean_s KL(pi(.|s) || pi(.|s')), s' the worst point found within eps of s.

    By how much K grows if w goes, to first order: the weight whose removal lowers it most goes
    first. s' is the end of a projected gradient ascent and is held fixed. Signed; the critic
    scores 0.

    Source: this package.
    """
    params, eps = policy.params, jnp.asarray(batch.eps)
    step_size = STEP_SCALE * eps / STEPS

    def attack(obs: Array, key: Key) -> Array:
        clean = action_distribution(policy, obs)
        objective = lambda x: clean.kl(action_distribution(policy, x))  # noqa: E731
        return ascend(key, objective, obs, eps, steps=STEPS, step_size=step_size, restarts=1)

    def divergence(params: Params, obs: Array, point: Array) -> Array:
        at = replace(policy, params=params)
        return action_distribution(at, obs).kl(action_distribution(at, point))

    def of_minibatch(minibatch: tuple[Array, Key]) -> Params:
        obs, _ = minibatch
        points = jax.vmap(attack)(*minibatch)  # of the policy as it is: constants below
        rows = jax.vmap(divergence, (None, 0, 0))
        return jax.grad(lambda params: jnp.mean(rows(params, obs, points)))(params)

    obs = batch.sample.obs_norm
    grads = _mean_over_minibatches(of_minibatch, (obs, jax.random.split(key, obs.shape[:2])))
    return jax.tree.map(lambda w, slope: -w * slope, params, grads)


@dataclass(frozen=True)
class Score:
    """A score and what has to be there to compute it."""

    score: Callable[[Policy, PyTree, Key], Params]
    """(policy, `Batch`, key) -> tree like policy.params, higher = keep; the key is consumed."""
    needs: Literal["nothing", "data", "training"]
    """A batch with data, training that accumulates it, or nothing: None will do for a batch."""


SCORES: dict[str, Score] = {
    "constant": Score(constant, needs="nothing"),
    "magnitude": Score(magnitude, needs="nothing"),
    "random": Score(random, needs="nothing"),
    "layer_magnitude": Score(layer_magnitude, needs="nothing"),
    "lamp": Score(lamp, needs="nothing"),
    "saliency": Score(saliency, needs="data"),
    "snip": Score(snip, needs="data"),
    "grasp": Score(grasp, needs="data"),
    "synflow": Score(synflow, needs="nothing"),
    "wanda": Score(wanda, needs="data"),
    "fisher": Score(fisher, needs="data"),
    "movement": Score(movement, needs="training"),
    "certificate": Score(certificate, needs="data"),
    "adversary": Score(adversary, needs="data"),
}


def dense_gradient(policy: Policy, batch: Batch) -> Params:
    """g, the mean over the minibatches of the gradient of PPO's loss, also where w was removed.

    What weights grow back by, and what `movement` adds up.
    """
    gradient = jax.grad(_loss(policy, batch.hyper))
    return _mean_over_minibatches(lambda sample: gradient(policy.params, sample), batch.sample)


def _loss(policy: Policy, hyper: Hyper) -> Callable[[Params, Sample], Array]:
    """(params, minibatch `[B]`) -> L."""
    return lambda params, sample: ppo_loss(params, policy, hyper, sample)[0]


def _together(sample: Sample) -> Sample:
    """`[M, B]` as one minibatch `[M * B]`."""
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, *x.shape[2:])), sample)


def _mean_over_minibatches(of_minibatch: Callable[[PyTree], Params], minibatches: PyTree) -> Params:
    """Mean over the leading axis `[M]`, one at a time: memory is that of one minibatch."""
    count = jax.tree.leaves(minibatches)[0].shape[0]
    like = jax.eval_shape(of_minibatch, jax.tree.map(lambda x: x[0], minibatches))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    add = lambda total, x: (jax.tree.map(jnp.add, total, of_minibatch(x)), None)  # noqa: E731
    total, _ = jax.lax.scan(add, zero, minibatches)
    return jax.tree.map(lambda x: x / count, total)


def _relative(w: Array) -> Array:
    """|w| / max |w|: squares of the result neither overflow nor vanish all together."""
    size = jnp.abs(w)
    return _ratio(size, jnp.max(size, initial=0.0))


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, non-negative both; 0 / 0 is 0."""
    return part / jnp.maximum(whole, jnp.finfo(whole.dtype).tiny)
