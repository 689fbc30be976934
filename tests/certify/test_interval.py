"""Interval rules of the activations against extended precision, and interval bound propagation."""

import warnings
from decimal import Decimal, localcontext
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from jaxprune.certify.activations import ACTIVATIONS
from jaxprune.certify.activations.base import FLUSHED
from jaxprune.certify.activations.swish import BEND, LOWEST
from jaxprune.certify.boxes import Box
from jaxprune.certify.interval import centre_value, ibp, pre_activations
from jaxprune.certify.query import Query, length, make_query
from jaxprune.certify.rounding import slack
from jaxprune.policy import Affine
from jaxprune.validation import InputError
from tests.certify.networks import network

EXACT = {  # in extended precision: value and slope
    "tanh": (np.tanh, lambda x: 1 / np.cosh(np.clip(x, -5000, 5000)) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)),
    "swish": (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
}
# Of a decimal number, to as many digits as its context has.
DECIMAL = {
    "tanh": lambda x: (1 - (-2 * abs(x)).exp()) / (1 + (-2 * abs(x)).exp()) * (-1 if x < 0 else 1),
    "relu": lambda x: max(x, Decimal(0)),
    "swish": lambda x: x / (1 + (-x).exp()),
}
DIGITS = 120
ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)
DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])
RULES = {name: jax.jit(rules.box) for name, rules in ACTIVATIONS.items()}
IBP = jax.jit(ibp)
CENTRE = jax.jit(centre_value)
SLOPE_RULES = {name: jax.jit(rules.slopes) for name, rules in ACTIVATIONS.items()}

# XLA rounds subnormal numbers to zero, which no rule covers.
ends = st.one_of(
    st.floats(-4, 4), st.floats(-40, 40), st.floats(-1e-6, 1e-6), st.sampled_from([-1e30, 0, 1e30])
).map(lambda x: x if abs(x) > 1e-36 else 0.0)


def query(layers, eps, centre, activation="tanh", dtype="float64") -> Query:
    layers = [Affine(*(np.asarray(x, dtype) for x in layer)) for layer in layers]
    eps = np.broadcast_to(np.asarray(eps, dtype), np.shape(centre))
    return make_query(layers, eps, None, activation, np.asarray(centre, dtype))


def grid(low, high, dtype) -> np.ndarray:
    """From end to end in extended precision, 0 among them if it lies between, `[n, points]`."""
    low, high = (np.asarray(end, dtype).astype(np.longdouble)[:, None] for end in (low, high))
    points = low + (high - low) * np.linspace(0, 1, 101, dtype=np.longdouble)
    points = np.clip(points, low, high)  # huge ends round
    turns = [np.clip(turn, low, high) for turn in (0, LOWEST, -BEND, BEND)]
    return np.concatenate([points, *turns, high], axis=1)


def check_rules(low, high, activation, dtype):
    """Boxes and slopes hold on the grid and are tight to a few roundings."""
    with jax.enable_x64(True):
        box = Box(np.asarray(low, dtype), np.asarray(high, dtype))
        image, slopes = RULES[activation](box), SLOPE_RULES[activation](box)
    assert all(end.dtype == dtype for end in (*image, *slopes))
    x, (value, slope) = grid(low, high, dtype), EXACT[activation]
    for found, truth in ((image, value(x)), (slopes, slope(x[:, :-1]))):
        least, most = (np.asarray(end, np.longdouble)[:, None] for end in found)
        assert np.all(least <= truth) and np.all(truth <= most)
    lost = 50 * np.finfo(dtype).eps
    values, least = value(x), 1001 * np.finfo(dtype).tiny
    np.testing.assert_allclose(image.low, values.min(axis=1).astype(dtype), rtol=lost, atol=least)
    np.testing.assert_allclose(image.high, values.max(axis=1).astype(dtype), rtol=lost)
    steepest = np.asarray(ACTIVATIONS[activation].steepest, dtype)
    low, high = (np.asarray(end) for end in slopes)
    assert np.all((low >= 1 - steepest) & (high <= steepest))


@DTYPE
@ACTIVATION
@given(a=ends, b=ends)
@settings(max_examples=100)
def test_rules_hold_on_any_interval(activation, dtype, a, b):
    """Huge, tiny, of one point, on either side of 0 or across it."""
    check_rules([min(a, b)], [max(a, b)], activation, dtype)


@DTYPE
@ACTIVATION
def test_rules_hold_on_many_intervals(activation, dtype):
    rng = np.random.default_rng(0)
    middle = rng.standard_normal(2000) * 10.0 ** rng.uniform(-3, 1.3, 2000)
    half = 10.0 ** rng.uniform(-12, 1, 2000) * (rng.random(2000) < 0.9)
    check_rules(middle - half, middle + half, activation, dtype)


def test_slopes_of_saturated_units_are_not_zero():
    """1 - tanh^2 is 0 in float32 from 9 on, which would not be a bound."""
    far = Box(np.float32([9, -30]), np.float32([12, -20]))
    slopes = SLOPE_RULES["tanh"](far)
    truth = 4 * np.exp([-18.0, -40.0])
    assert np.all(truth * (1 - 1e-6) <= slopes.high) and np.all(slopes.high <= truth * (1 + 1e-5))


def test_golden_value():
    """certificates.md 4.2."""
    with jax.enable_x64(True):
        centre = np.random.default_rng(100).standard_normal(11)
        asked = query(network(0, (11, 64, 64, 3)), 0.01, centre)
        box, at = (jax.device_get(IBP(q)) for q in (asked, asked.replace(eps=np.zeros(11))))
        change = np.maximum(box.high - at.low, at.high - box.low)
        distance = float(length(asked.replace(norm="l2"), change))
    assert distance == pytest.approx(0.79373, abs=5e-6)


@ACTIVATION
def test_agrees_with_another_implementation(activation):
    """The natural inclusion of immrax, to 1e-5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        immrax = pytest.importorskip("immrax")
    rng = np.random.default_rng(3)
    layers, centre = network(3, (6, 12, 9, 3)), rng.standard_normal(6)
    layers = [Affine(*(jnp.asarray(x, "float32") for x in layer)) for layer in layers]
    eps = jnp.asarray(rng.uniform(0, 0.3, 6), "float32")
    act = {"tanh": jnp.tanh, "relu": partial(jnp.maximum, 0.0), "swish": jax.nn.swish}[activation]

    def network_of(x):
        for weight, bias in layers[:-1]:
            x = act(weight @ x + bias)
        return layers[-1].weight @ x + layers[-1].bias

    asked = query(layers, eps, centre, activation, "float32")
    ball = immrax.interval(asked.centre - eps, asked.centre + eps)
    theirs, ours = immrax.natif(network_of)(ball), IBP(asked)
    np.testing.assert_allclose(ours.low, theirs.lower, atol=1e-5 * 10)
    np.testing.assert_allclose(ours.high, theirs.upper, atol=1e-5 * 10)


@ACTIVATION
def test_boxes_of_every_layer_hold(activation):
    """Pre-activations of random points and corners, layer by layer."""
    rng = np.random.default_rng(4)
    layers, centre = network(4, (5, 9, 7, 2)), rng.standard_normal(5)
    with jax.enable_x64(True):
        boxes = jax.jit(pre_activations)(query(layers, 0.2, centre, activation))
    moves = rng.uniform(-1, 1, (400, 5))
    x = centre + 0.2 * np.concatenate([moves, np.sign(moves)])
    for (weight, bias), box in zip(layers, boxes, strict=True):
        z = x @ weight.T + bias
        assert np.all((np.asarray(box.low) <= z) & (z <= np.asarray(box.high)))
        x = EXACT[activation][0](z)


# --- the value at the centre ----------------------------------------------------------------------


def outputs_in_decimals(asked: Query) -> list[Decimal]:
    """Of the network at the centre; call in a context of `DIGITS`."""
    values = [Decimal(float(x)) for x in asked.centre]
    for i, (weight, bias) in enumerate(asked.layers):
        values = [DECIMAL[asked.activation](x) for x in values] if i else values
        rows = [[Decimal(float(w)) for w in row] for row in weight]
        sums = [sum(w * x for w, x in zip(row, values, strict=True)) for row in rows]
        values = [z + Decimal(float(b)) for z, b in zip(sums, bias, strict=True)]
    return values


def check_enclosed(asked: Query):
    """Against 120 digits: what is known of each output holds."""
    with jax.enable_x64(True):
        box = CENTRE(asked)
    assert box.low.dtype == box.high.dtype == asked.centre.dtype
    with localcontext(prec=DIGITS, Emax=10**9, Emin=-(10**9), traps=[]):
        truth = outputs_in_decimals(asked)
        for low, value, high in zip(box.low, truth, box.high, strict=True):
            assert Decimal(float(low)) <= value <= Decimal(float(high))


def any_query(seed, powers, cancels, activation, dtype) -> Query:
    """4-5-5-2 with layers of any scale; or whose first sums cancel, so that rounding is all."""
    layers, rng = network(seed, (4, 5, 5, 2)), np.random.default_rng(seed)
    layers = [Affine(w * 10.0**p, b) for (w, b), p in zip(layers, powers, strict=True)]
    kept = rng.random(layers[1].weight.shape) < 0.7
    layers[1] = layers[1]._replace(weight=layers[1].weight * kept)
    centre = 10 ** rng.uniform(-3, 1.5) * rng.standard_normal(4)
    if cancels:
        weight = layers[0].weight.astype(dtype).astype(float)
        layers[0] = Affine(weight, -weight @ centre.astype(dtype).astype(float))
    with np.errstate(over="ignore"):
        asked = query(layers, 0.1, centre, activation, dtype)
    tiny = np.finfo(dtype).tiny  # XLA rounds subnormal numbers to zero, which no bound covers
    return jax.tree.map(lambda x: np.where(np.abs(x) < tiny, 0, x).astype(dtype), asked)


@DTYPE
@ACTIVATION
@given(
    seed=st.integers(0, 2**32 - 1),
    powers=st.tuples(*[st.floats(-4, 4)] * 3),
    cancels=st.booleans(),
)
@settings(max_examples=100)
def test_the_value_at_the_centre_is_enclosed(activation, dtype, seed, powers, cancels):
    check_enclosed(any_query(seed, powers, cancels, activation, dtype))


@DTYPE
@ACTIVATION
@given(seed=st.integers(0, 2**32 - 1), signs=st.tuples(*[st.sampled_from([-1, 0, 1])] * 3))
@settings(max_examples=60)
def test_the_value_at_the_centre_is_enclosed_or_unknown_beyond_the_numbers(
    activation, dtype, seed, signs
):
    """Of layers so large or so small that sums overflow and products vanish."""
    furthest = np.log10(np.finfo(dtype).max) - 2
    check_enclosed(any_query(seed, [furthest * x for x in signs], False, activation, dtype))


@DTYPE
@ACTIVATION
def test_a_hidden_sum_that_may_overflow_on_its_way_is_not_known(activation, dtype):
    """In another order it would be -inf, of which ReLU makes 0, and tanh 1."""
    large = 0.3e-3 * np.finfo(dtype).max
    layers = [
        Affine(np.array([[-large, large, large]]), np.zeros(1)),
        Affine(np.full((2, 1), 1e-5), np.zeros(2)),
    ]
    with jax.enable_x64(True):
        box = jax.device_get(CENTRE(query(layers, 0.1, np.full(3, 1e3), activation, dtype)))
    assert np.all(np.isneginf(box.low)) and np.all(np.isposinf(box.high))


@DTYPE
@ACTIVATION
def test_the_value_at_the_centre_is_known_to_rounding(activation, dtype):
    """Of the size of policies: the box is a few thousand roundings wide."""
    layers, centres = network(6, (11, 64, 64, 3)), np.random.default_rng(6).normal(0, 2, (20, 11))
    for centre in centres:
        with jax.enable_x64(True):
            box = jax.device_get(CENTRE(query(layers, 0.1, centre, activation, dtype)))
        assert np.all(box.high - box.low < 3e5 * np.finfo(dtype).eps)


@cache
def points(activation):
    return jax.jit(lambda x: ACTIVATIONS[activation].point(x).value)


@DTYPE
@ACTIVATION
@given(x=ends)
@settings(max_examples=100)
def test_points_are_as_accurate_and_as_small_as_rules_say(activation, dtype, x):
    x = np.asarray([x], dtype)
    with jax.enable_x64(True):
        value = points(activation)(x)
        largest = float(ACTIVATIONS[activation].largest(value))
    value = jax.device_get(value)
    with localcontext(prec=DIGITS, Emax=10**9, Emin=-(10**9), traps=[]):
        truth = DECIMAL[activation](Decimal(float(x[0])))
        lost = slack(0, value.dtype) * abs(float(value[0]))
        lost += FLUSHED * float(np.finfo(dtype).tiny)
        assert abs(Decimal(float(value[0])) - truth) <= Decimal(lost)
    assert np.abs(value[0]) <= largest


def test_a_wider_ball_has_wider_boxes():
    rng = np.random.default_rng(5)
    layers, centre = network(5, (5, 9, 7, 2)), rng.standard_normal(5)
    with jax.enable_x64(True):
        asked = query(layers, 1.0, centre)
        radii = np.r_[0, np.geomspace(1e-6, 3, 30)]
        box = jax.jit(jax.vmap(lambda r: ibp(asked.replace(eps=r * asked.eps))))(radii)
    assert np.all(np.diff(box.low, axis=0) <= 0) and np.all(np.diff(box.high, axis=0) >= 0)


def test_unknown_activation():
    with pytest.raises(InputError, match=r"activation with rules for bounds.*tanh, relu"):
        ibp(query(network(0, (2, 3, 1)), 0.1, np.zeros(2), "gelu", "float32"))
