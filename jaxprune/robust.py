"""The regulariser that SA-PPO adds to PPO's loss: how far the policy moves in the worst case.

    max over ||s' - s||_inf <= eps of Delta(s, s')

    Gaussian     Delta = sum_j ((mu_j(s') - mu_j(s)) / sigma_j)^2 = D^2, twice the KL divergence
    categorical  Delta = KL(pi(s) || pi(s'))

An attack finds the maximum from below (pgd, sgld): s' and pi(s) are constants of the gradient,
which flows through mu(s') and sigma. What pi(s) would contribute averages out over many states
only: on a few that stay the same, descent can raise Delta. A bound comes from above (convex), and
all of it has a gradient, that of pi(s) included. Sigma is detached in neither, so a larger sigma is
one way to a smaller Delta; the reference offers to detach it.

Everything is about one observation; the learner maps it over a minibatch.

Source: Zhang et al. 2020 (arXiv 2003.08938), section 3.2, and github.com/huanzhang12/SA_PPO, which
has no 1/2 before the Gaussian's square and mu(s) as a constant.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.ball import ascend, noisy_ascend
from jaxprune.certify.crown import Line, Lines
from jaxprune.certify.interval import Box
from jaxprune.certify.query import Query, make_query, unit_ball_weights
from jaxprune.families import lookup
from jaxprune.policy import (
    ACTIVATIONS,
    Affine,
    Categorical,
    Distribution,
    action_distribution,
    affine_layers,
    deviations,
    inverse_std,
)
from jaxprune.types import Array, Key, Policy

Regulariser = Callable[[Key, Policy, Array, Array, Array], Array]
"""(key, policy, obs_norm `[obs_size]`, eps `[]`, mix `[]`) -> what to minimise, `[]`, at least 0.

`mix` is the weight of interval bounds in "convex", which ramps from 0 to 1 along with eps."""

# Gradient evaluations of an attack, and the step of pgd in units of eps / STEPS.
STEPS = 10
STEP_SCALE = 2.5
# What the reference calls the inverse temperature of its Langevin dynamics.
BETA = 1e-5
# Delta in units of KL(pi(s) || pi(s')), by `Policy.distribution`.
KL_SCALE = {"normal": 2.0, "categorical": 1.0}


def ramp(progress: Array, over: Array | float) -> Array:
    """min(progress / over, 1), `[]`: how much of eps is in force at `progress` of training.

    1 where `over` is 0. Source: Zhang et al. 2020, over the first 75 % of training.
    """
    return jnp.where(over > 0, jnp.minimum(progress / jnp.where(over > 0, over, 1.0), 1.0), 1.0)


def none(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """Plain PPO: 0, `[]`."""
    del key, policy, eps, mix
    return jnp.zeros((), obs_norm.dtype)


def pgd(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """Delta at the point that projected sign-gradient ascent finds, `[]`.

    Source: the inner maximisation of Madry et al. 2018, see `jaxprune.ball.ascend`.
    """
    del mix
    return _delta_at(policy, obs_norm, perturbed(key, policy, obs_norm, eps), eps)


def sgld(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """Delta at the end of the reference's noisy sign-gradient ascent, `[]`.

    Source: Zhang et al. 2020, appendix C; see `langevin`.
    """
    del mix
    return _delta_at(policy, obs_norm, langevin(key, policy, obs_norm, eps), eps)


def convex(key: Key, policy: Policy, obs_norm: Array, eps: Array, mix: Array) -> Array:
    """A bound on Delta from the box [low_j, high_j] of the change of the outputs, `[]`.

        [low, high] = mix * IBP + (1 - mix) * CROWN
        Gaussian     sum_j max(-low_j, high_j)^2 / sigma_j^2
        categorical  max over corners dz of the box of KL(softmax(z) || softmax(z + dz))

    The latter is the exact maximum over the box, KL being convex in dz; there are 2^K corners for K
    actions. An upper bound to the rounding of `obs_norm`'s type.

    Source: Zhang et al. 2020, section 3.2; CROWN-IBP: Zhang et al. 2020 (arXiv 1906.06316).
    """
    del key
    radius = jnp.full_like(obs_norm, eps)
    inv_std = inverse_std(policy)
    query = make_query(affine_layers(policy), radius, inv_std, policy.activation, obs_norm)
    value, interval, linear = output_changes(query)
    ends = zip(interval, linear, strict=True)
    change = Box(*(mix * loose + (1 - mix) * tight for loose, tight in ends))
    return _zero_without_ball(eps, LARGEST_DELTA[policy.distribution](value, change))


REGULARISERS: dict[str, Regulariser] = {"none": none, "pgd": pgd, "sgld": sgld, "convex": convex}


# --- attacks --------------------------------------------------------------------------------------


def perturbed(key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """The point that projected gradient ascent of the KL divergence finds in the ball.

    `[obs_size]`, without a gradient: for the regulariser, and for rollouts under perturbation.

    Args:
        key: consumed.
        policy: the victim.
        obs_norm: centre of the ball, normalised, `[obs_size]`.
        eps: radius, `[]`, may be traced.
    """
    # Frozen before the ascent, so that no derivative of its loop is ever built.
    policy, obs_norm = jax.lax.stop_gradient((policy, obs_norm))
    clean = action_distribution(policy, obs_norm)
    return ascend(
        key,
        lambda x: _delta(policy, clean, x),
        obs_norm,
        eps,
        steps=STEPS,
        step_size=STEP_SCALE * eps / STEPS,
        restarts=1,
    )


def langevin(key: Key, policy: Policy, obs_norm: Array, eps: Array) -> Array:
    """The last iterate of the reference's noisy ascent of Delta; arguments as of `perturbed`.

    In the reference, gradients are those of the mean over a minibatch, against which noise weighs
    more.

    Source: `get_state_kl_bound_sgld` of the reference; see `jaxprune.ball.noisy_ascend`.
    """
    policy, obs_norm = jax.lax.stop_gradient((policy, obs_norm))
    clean = action_distribution(policy, obs_norm)
    return noisy_ascend(
        key,
        lambda x: _delta(policy, clean, x),
        obs_norm,
        eps,
        steps=STEPS,
        temperature=BETA,
    )


def _delta_at(policy: Policy, obs_norm: Array, point: Array, eps: Array) -> Array:
    """Delta(s, point), pi(s) a constant."""
    clean = jax.lax.stop_gradient(action_distribution(policy, obs_norm))
    return _zero_without_ball(eps, _delta(policy, clean, point))


def _delta(policy: Policy, clean: Distribution, point: Array) -> Array:
    """From the distribution at s to the one at s'.

    A deviation that is a constant in `clean` only changes no gradient: with equal deviations that
    of the rest of the KL divergence is 0.
    """
    return KL_SCALE[policy.distribution] * clean.kl(action_distribution(policy, point))


def _zero_without_ball(eps: Array, value: Array) -> Array:
    """Where eps is 0, what is left is rounding."""
    return jnp.where(eps > 0, value, 0.0)


# --- bounds ---------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A point of the graph of an activation."""

    x: Array  # [n]
    value: Array  # [n]


class Ray(NamedTuple):
    """The line of a slope through a point."""

    slope: Array  # [n]
    through: Point


def output_changes(query: Query) -> tuple[Array, Box, Box]:
    """The outputs at the centre, and boxes of their change over the ball: IBP and CROWN-IBP.

    CROWN-IBP substitutes backwards from the outputs only; the boxes in which activations are
    relaxed are those of IBP, where the CROWN of `jaxprune.certify` would compute its own. As there,
    the result is intersected with IBP's: it is never the looser of the two. Without the outward
    rounding of `jaxprune.certify`, and with one contact point per line, a gradient takes half as
    long.

    Changes from the centre, because without a ball they are 0 and not the rounding of outputs.

    Returns:
        `[outputs]` each.

    Source: Zhang et al. 2020 (CROWN-IBP, arXiv 1906.06316), Gowal et al. 2018 (IBP).
    """
    activation = lookup(ACTIVATIONS, query.activation, "activation")
    *hidden, last = query.layers
    lines: list[Lines] = []
    at, change = query.centre, Box(-query.eps, query.eps)
    for affine in hidden:
        z, dz = _affine(affine, at, change)
        centre, low, high = (Point(x, activation(x)) for x in (z, z + dz.low, z + dz.high))
        lines.append(_around(query.activation, centre, low, high))
        at, change = centre.value, Box(low.value - centre.value, high.value - centre.value)
    value, interval = _affine(last, at, change)
    *weights, rows = unit_ball_weights(query)
    up, down = jnp.split(_reach(jnp.concatenate([rows, -rows]), lines, weights), 2)
    linear = Box(jnp.maximum(interval.low, -down), jnp.minimum(interval.high, up))
    return value, interval, linear


def _affine(affine: Affine, at: Array, change: Box) -> tuple[Array, Box]:
    """The image of `at`, and the interval image of a change from it."""
    middle = affine.weight @ ((change.low + change.high) / 2)
    reach = jnp.abs(affine.weight) @ ((change.high - change.low) / 2)
    return affine.weight @ at + affine.bias, Box(middle - reach, middle + reach)


def _reach(rows: Array, lines: Sequence[Lines], weights: Sequence[Array]) -> Array:
    """A bound on `rows @ dh`, dh of the last hidden layer, `[m, n] -> [m]`.

    As in `jaxprune.certify.crown`: lines middle + half above and middle - half below turn rows A of
    changes dh into rows A middle + |A| half of dz, and on to the ball, where |A| eps is left.

    Args:
        rows: `[m, n]`.
        lines: around the hidden activations, first to last.
        weights: of the hidden layers, eps folded into the first.
    """
    reach = jnp.zeros(len(rows), rows.dtype)
    for (middle, half), weight in zip(reversed(lines), reversed(weights), strict=True):
        size = jnp.abs(rows)
        reach = reach + rows @ middle.offset + size @ half.offset
        rows = (rows * middle.slope + size * half.slope) @ weight
    return reach + jnp.sum(jnp.abs(rows), axis=-1)


def _around(activation: str, centre: Point, low: Point, high: Point) -> Lines:
    """Lines around the change dh of an activation from its centre, over the change dz."""
    above, below = RAYS[activation](low, high)
    top, bottom = (
        through.value - centre.value - slope * (through.x - centre.x)
        for slope, through in (above, below)
    )
    middle = Line((above.slope + below.slope) / 2, (top + bottom) / 2)
    return Lines(middle, Line((above.slope - below.slope) / 2, (top - bottom) / 2))


def tanh_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """Above and below tanh, which is odd."""
    slope, through = _above_tanh(_mirrored(high), _mirrored(low))
    return _above_tanh(low, high), Ray(slope, _mirrored(through))


def _mirrored(point: Point) -> Point:
    return Point(-point.x, -point.value)


def _above_tanh(low: Point, high: Point) -> Ray:
    """The chord if it stays above tanh, else the tangent at the middle of the box.

    But no further left than where the tangent passes through the lower end -a. A fit of that place,
    t in tanh t + tanh a = sech^2(t) (t + a), is at least 0.992 t; 1 % further right it is safe.

    Of `jnp.where` only: the gradients of `jnp.maximum`, which split ties, cost more.
    """
    width = high.x - low.x
    chord = (high.value - low.value) / jnp.where(width > 0, width, 1.0)
    chord_holds = chord <= 1 - high.value**2
    a = jnp.where(low.x < 0, -low.x, 0.0)
    first = 1.01 * a * (1 + a * (1.87 + 0.0105 * a)) / (2 + a * (3.32 + 0.965 * a))
    middle = (low.x + high.x) / 2
    x = jnp.where(middle > first, middle, first)
    x = jnp.where(chord_holds | (x > high.x), high.x, x)
    touch = Point(x, jnp.tanh(x))
    return Ray(jnp.where(chord_holds, chord, 1 - touch.value**2), touch)


def relu_rays(low: Point, high: Point) -> tuple[Ray, Ray]:
    """The chord above; slope 0 or 1, whichever leaves the smaller triangle, below."""
    width = high.x - low.x
    bent = (low.x < 0) & (high.x > 0)
    active = (high.x > 0).astype(high.x.dtype)
    above = jnp.where(bent, high.x / jnp.where(bent, width, 1.0), active)
    bend = jnp.clip(0.0, low.x, high.x)
    below = (high.x > -low.x).astype(high.x.dtype)
    return Ray(above, high), Ray(below, Point(bend, jnp.maximum(bend, 0.0)))


# (low, high) -> lines above and below an activation over the box.
RAYS: dict[str, Callable[[Point, Point], tuple[Ray, Ray]]] = {"tanh": tanh_rays, "relu": relu_rays}


def _gaussian_delta(value: Array, change: Box) -> Array:
    """Of changes in units of sigma."""
    del value
    largest = jnp.maximum(-change.low, change.high)
    return jnp.sum(deviations(largest, jnp.zeros_like(largest)) ** 2)


def _categorical_delta(value: Array, change: Box) -> Array:
    """Of changes of the logits `value`."""
    corners = np.array(list(product([False, True], repeat=value.size)))
    moved = value + jnp.where(corners, change.high, change.low)
    return jnp.max(jax.vmap(lambda z: Categorical(value).kl(Categorical(z)))(moved))


# The largest Delta over a box, by `Policy.distribution`.
LARGEST_DELTA: dict[str, Callable[[Array, Box], Array]] = {
    "normal": _gaussian_delta,
    "categorical": _categorical_delta,
}
