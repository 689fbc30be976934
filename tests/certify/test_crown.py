"""Local bounds: soundness, golden values, limits, and what pruning does to them."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from jaxprune.certify import BOUNDS
from jaxprune.certify.activations import ACTIVATIONS
from jaxprune.certify.activations.base import Choice
from jaxprune.certify.boxes import Box
from jaxprune.certify.certificates import gaussian_local
from jaxprune.certify.crown import Layer, lines_around, units_over
from jaxprune.certify.query import Query, make_query, with_rows
from jaxprune.policy import Affine
from jaxprune.validation import InputError
from tests.certify.networks import network

LOCAL = [name for name, bound in BOUNDS.items() if bound.scope == "local"]
RELAXED = [name for name in LOCAL if name != "ibp"]
# For tests that compile each bound once more.
QUICK_LOCAL = [
    pytest.param(name, marks=[] if name in ("ibp", "crown") else pytest.mark.slow) for name in LOCAL
]
SIGMA = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "swish": lambda x: x * special.expit(x),
}
SLOPE = {
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "relu": lambda x: (x > 0).astype(x.dtype),
    "swish": lambda x: special.expit(x) * (1 + x * special.expit(-x)),
}
ACTIVATION = pytest.mark.parametrize("activation", SIGMA)

# One shape for most tests, and always as many queries, so that each bound compiles once.
SIZES = (5, 8, 7, 3)
BATCH = 24
JITTED = {name: jax.jit(jax.vmap(BOUNDS[name].bound)) for name in LOCAL}


def query(layers, eps, centre, activation="tanh", inv_std=None, dtype="float64") -> Query:
    """In numpy: only bounds are compiled."""
    to = partial(np.asarray, dtype=dtype)
    layers = [Affine(to(w), to(b)) for w, b in layers]
    eps = np.broadcast_to(to(eps), np.shape(centre))
    return make_query(layers, eps, None if inv_std is None else to(inv_std), activation, to(centre))


def boxes(name: str, queries: list[Query]) -> Box:
    """`[len(queries), outputs]`, in numpy. No box depends on the norm of the change."""
    padded = [q.replace(norm="l2") for q in (*queries, *[queries[-1]] * (BATCH - len(queries)))]
    with jax.enable_x64(True):
        found = JITTED[name](jax.tree.map(lambda *x: np.stack(x), *padded))
    assert all(end.dtype == queries[0].eps.dtype for end in found)
    return Box(*(np.asarray(end, np.float64)[: len(queries)] for end in found))


def half_width(box: Box) -> np.ndarray:
    return (box.high - box.low) / 2


def random_query(seed, activation, sizes=SIZES, dtype="float64") -> Query:
    """Any gain, ball and head; some coordinates do not move, and some balls are points."""
    rng = np.random.default_rng([seed, 1])
    layers = network(seed, sizes, hidden_gain=rng.uniform(0.5, 2.5))
    eps = 10 ** rng.uniform(-4, 0.3) * rng.uniform(0, 1, sizes[0]) * (rng.random(sizes[0]) < 0.9)
    eps *= seed % 6 > 0
    inv_std = rng.uniform(0.5, 3, sizes[-1]) if seed % 2 else None
    return query(layers, eps, 1.5 * rng.standard_normal(sizes[0]), activation, inv_std, dtype)


def outputs(asked: Query, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """In float64: `[n, outputs]`, and the pre-activations of the hidden layers."""
    *hidden, last = (Affine(*(np.asarray(a, np.float64) for a in la)) for la in asked.layers)
    seen = []
    for weight, bias in hidden:
        seen.append(x @ weight.T + bias)
        x = SIGMA[asked.activation](seen[-1])
    return x @ last.weight.T + last.bias, seen


def jacobian(asked: Query, x: np.ndarray) -> np.ndarray:
    """`[n, outputs, obs_size]`."""
    weights = [np.asarray(w, np.float64) for w, _ in asked.layers]
    found = np.broadcast_to(weights[-1], (len(x), *weights[-1].shape))
    for weight, z in zip(weights[-2::-1], reversed(outputs(asked, x)[1]), strict=True):
        found = (found * SLOPE[asked.activation](z)[:, None]) @ weight
    return found


def reached(asked: Query, seed: int) -> np.ndarray:
    """Outputs found in the ball: uniform points, corners, and ascent along signs of gradients."""
    rng = np.random.default_rng([seed, 2])
    centre, eps = (np.asarray(x, np.float64) for x in (asked.centre, asked.eps))
    moves = rng.uniform(-1, 1, (200, eps.size))
    points = [centre[None], centre + eps * moves, centre + eps * np.sign(moves)]
    for i in range(asked.layers[-1].bias.size):
        for sign in (-1, 1):
            x = points[1][:8]
            for _ in range(6):
                x = centre + eps * np.sign(sign * jacobian(asked, x)[:, i])
                points.append(x)
    return outputs(asked, np.concatenate(points))[0]


def check_soundness(names, activation, sizes=SIZES, dtype="float64"):
    queries = [random_query(seed, activation, sizes, dtype) for seed in range(BATCH)]
    found = [reached(asked, seed) for seed, asked in enumerate(queries)]
    least, most = (np.stack([f(y, axis=0) for y in found]) for f in (np.min, np.max))
    for name in names:
        box = boxes(name, queries)
        assert np.all(box.low <= least) and np.all(most <= box.high), name
        attained = np.median((most - least) / (box.high - box.low))
        assert attained > (0.05 if name in ("ibp", "interval_jacobian") else 0.4), name


@ACTIVATION
def test_nothing_in_the_ball_leaves_the_box(activation):
    check_soundness(LOCAL, activation)


def test_nothing_in_the_ball_leaves_a_box_computed_in_float32():
    """Against outputs in float64."""
    check_soundness(["ibp", "crown"], "tanh", dtype="float32")


@pytest.mark.parametrize("name", QUICK_LOCAL)
def test_rounding_in_an_early_layer_reaches_the_box(name):
    """float32, no ball: large weights that cancel against the bias, then ordinary ones."""
    queries = []
    for seed in range(BATCH):
        layers, centre = network(seed, SIZES), np.random.default_rng(seed).standard_normal(5)
        weight = 1e3 * layers[0].weight
        first = Affine(weight, -weight @ centre + 0.1 * np.arange(8))
        queries.append(query([first, *layers[1:]], 0.0, centre, dtype="float32"))
    box = boxes(name, queries)
    values = np.stack([outputs(q, np.asarray(q.centre, np.float64)[None])[0][0] for q in queries])
    assert np.all((box.low <= values) & (values <= box.high))
    assert np.max(box.high - box.low) < 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(5, 3), (5, 8, 3), (3, 16, 1), SIZES, (4, 7, 6, 5, 2)])
@ACTIVATION
def test_nothing_in_the_ball_leaves_the_box_at_any_depth(activation, sizes, dtype):
    check_soundness(LOCAL, activation, sizes, dtype)


# --- the lines around an activation


POINTS = 200


def lines_of(rules, layer, choice):
    units = units_over(rules, layer)
    return units, *lines_around(rules, units, choice)


LINES = {name: jax.jit(partial(lines_of, rules)) for name, rules in ACTIVATIONS.items()}


def check_lines(activation, dtype, z, low, high, choice):
    """No point of the graph between the ends is on the wrong side, in extended precision."""
    with jax.enable_x64(True):
        z, low, high, choice = (np.asarray(x, dtype) for x in (z, low, high, choice))
        layer = Layer(z, Box(low - z, high - z), np.zeros_like(z))
        units, middle, half = LINES[activation](layer, Choice(*choice))
    assert all(x.dtype == dtype for x in (*middle, *half))
    wide = lambda x: np.asarray(x, np.longdouble)[:, None]  # noqa: E731
    first, last = wide(units.low.x), wide(units.high.x)
    x = np.clip(first + (last - first) * np.linspace(0, 1, POINTS), first, last)
    x = np.concatenate([x, np.clip(np.linspace(-3, 3, POINTS), first, last)], axis=1)
    dh, dz = SIGMA[activation](x) - wide(units.value), x - wide(z)
    middle, half = (wide(line.slope) * dz + wide(line.offset) for line in (middle, half))
    assert np.all(middle - half <= dh) and np.all(dh <= middle + half)


# XLA rounds subnormal numbers to zero, which no rule covers.
ends = st.one_of(
    st.floats(-4, 4), st.floats(-40, 40), st.floats(-1e-6, 1e-6), st.sampled_from([-1e30, 0, 1e30])
).map(lambda x: x if abs(x) > 1e-30 else 0.0)
part = st.floats(0, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@ACTIVATION
@given(a=ends, b=ends, at=part, below=part, above=part)
@settings(max_examples=150)
def test_lines_hold_on_any_box(activation, dtype, a, b, at, below, above):
    """Huge, tiny, of one point, on either side of 0 or across it; whatever the choice."""
    low, high = min(a, b), max(a, b)
    z = low + at * (high - low)
    check_lines(activation, dtype, [z], [low], [high], [[below], [above]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@ACTIVATION
def test_lines_hold_on_many_boxes(activation, dtype):
    rng = np.random.default_rng(0)
    z = rng.standard_normal(2000) * 10.0 ** rng.uniform(-3, 1.3, 2000)
    down, up = 10.0 ** rng.uniform(-12, 1, (2, 2000)) * (rng.random((2, 2000)) < 0.9)
    check_lines(activation, dtype, z, z - down, z + up, rng.uniform(0, 1, (2, 2000)))


def test_lines_are_relu_where_it_does_not_bend():
    """Whatever the choice."""
    with jax.enable_x64(True):
        z, choice = np.array([2.0, -2.0]), np.array([0.3, 0.3])
        layer = Layer(z, Box(-np.ones(2), np.ones(2)), np.zeros(2))
        _, middle, half = LINES["relu"](layer, Choice(choice, choice))
    np.testing.assert_array_equal(middle.slope, [1, 0])
    np.testing.assert_array_equal(half.slope, [0, 0])
    assert np.all(np.abs([*middle.offset, *half.offset]) < 1e-13)


def test_tangents_are_tight():
    """On a box across 0 the best line is the tangent through the lower end, by root finding."""
    a = np.geomspace(0.01, 50, 60)
    gap = lambda t, a: np.tanh(t) + np.tanh(a) - (t + a) / np.cosh(t) ** 2  # noqa: E731
    touch = np.array([optimize.brentq(gap, 1e-9, 5, args=(one,)) for one in a])
    best = np.tanh(touch) - touch / np.cosh(touch) ** 2
    with jax.enable_x64(True):
        zero = np.zeros(60)
        layer = Layer(zero, Box(-a, zero + 50), zero)
        _, middle, half = LINES["tanh"](layer, Choice(zero, zero))
    above_zero = np.asarray(middle.offset + half.offset)
    assert np.all(best * (1 - 1e-9) < above_zero) and np.all(above_zero < 1.1 * best)


# --- golden values


# DeepPoly's parallel lines give 0.01971, tangents in another library 0.01871, PGD 0.01539. The
# interval Jacobian is 0.03561 with the boxes of parallel lines, multiplied from the other side.
GOLDEN = [
    ("interval_jacobian", 0.030705),
    ("crown", 0.018708),
    pytest.param("alpha_crown", 0.018572, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "expected"), GOLDEN)
def test_golden_values(name, expected):
    """D at the state of certificates.md 4.2, in float64."""
    centre = np.random.default_rng(100).standard_normal(11)
    asked = query(network(0, (11, 64, 64, 3)), 0.01, centre, inv_std=np.ones(3))
    with jax.enable_x64(True):
        distance = jax.jit(partial(gaussian_local, BOUNDS[name].bound))(asked).distance
    assert float(distance) == pytest.approx(expected, abs=5e-7)


# --- order and limits


@ACTIVATION
def test_each_bound_is_inside_the_one_it_refines(activation):
    queries = [random_query(seed, activation) for seed in range(BATCH)]
    found = {name: boxes(name, queries) for name in ("alpha_crown", "crown", "ibp")}
    for inner, outer in (("alpha_crown", "crown"), ("crown", "ibp")):
        room = 1e-9 * (found[outer].high - found[outer].low) + 1e-12
        assert np.all(found[inner].low >= found[outer].low - room)
        assert np.all(found[inner].high <= found[outer].high + room)
    assert np.sum(half_width(found["alpha_crown"])) < 0.99 * np.sum(half_width(found["crown"]))
    assert np.sum(half_width(found["crown"])) < 0.9 * np.sum(half_width(found["ibp"]))


@ACTIVATION
@pytest.mark.parametrize("name", RELAXED)
def test_small_balls_see_the_jacobian(name, activation):
    """c(eps) / eps -> the l_1 norms of the rows of J, and c(0) is rounding."""
    rng = np.random.default_rng(7)
    queries, slopes = [], []
    for seed in range(BATCH // 2):
        centre = rng.standard_normal(SIZES[0])
        asked = [query(network(seed, SIZES), eps, centre, activation) for eps in (0, 1e-6)]
        queries += asked
        slopes.append(np.abs(jacobian(asked[0], centre[None])[0]).sum(-1))
    width = half_width(boxes(name, queries))
    assert np.all(width[::2] < 1e-12)
    np.testing.assert_allclose(width[1::2] / 1e-6, slopes, rtol=1e-3)


@ACTIVATION
@pytest.mark.parametrize("name", LOCAL)
def test_a_wider_ball_has_a_wider_box(name, activation):
    layers, centre = network(8, SIZES), np.random.default_rng(8).standard_normal(SIZES[0])
    radii = np.r_[0, np.geomspace(1e-6, 3, BATCH - 1)]
    width = half_width(boxes(name, [query(layers, r, centre, activation) for r in radii]))
    assert np.all(np.diff(width, axis=0) > 0)


# --- networks whose answer is known


@pytest.mark.parametrize("name", LOCAL)
def test_exact_for_an_affine_network(name):
    """f(x) +- |W| eps, without and (ReLU units that stay active) with hidden layers."""
    rng = np.random.default_rng(9)
    eps, centre = rng.uniform(0, 0.3, 5), rng.standard_normal(5)
    asked = query(network(9, (5, 3)), eps, centre)
    weight, middle = np.asarray(asked.layers[0].weight), outputs(asked, centre[None])[0][0]
    box = boxes(name, [asked])
    np.testing.assert_allclose(box.low[0], middle - np.abs(weight) @ eps, rtol=1e-12)
    np.testing.assert_allclose(box.high[0], middle + np.abs(weight) @ eps, rtol=1e-12)


@pytest.mark.parametrize("name", RELAXED)
def test_exact_for_units_that_stay_active_or_stay_off(name):
    layers = network(10, SIZES)
    active = np.arange(8) < 5
    first = Affine(layers[0].weight, np.where(active, 20.0, -20.0))
    second = Affine(np.abs(layers[1].weight), layers[1].bias + 20.0)
    eps, centre = np.full(5, 0.3), np.zeros(5)
    asked = query([first, second, layers[2]], eps, centre, "relu")
    whole = layers[2].weight @ second.weight @ (active[:, None] * first.weight)
    width = half_width(boxes(name, [asked]))[0]
    np.testing.assert_allclose(width, np.abs(whole) @ eps, rtol=1e-10)


@pytest.mark.parametrize("name", LOCAL)
def test_degenerate_networks(name):
    """Saturated units and layers without weights: no move beyond rounding, and no 0 / 0."""
    layers = network(11, SIZES)
    nothing = Affine(np.zeros_like(layers[1].weight), layers[1].bias)
    deaf = Affine(np.zeros_like(layers[0].weight), np.zeros(8))
    saturated = Affine(layers[0].weight, np.where(np.arange(8) % 2, 40.0, -40.0))
    networks = [[layers[0], nothing, layers[2]], [deaf, *layers[1:]], [saturated, *layers[1:]]]
    for activation in SIGMA:
        queries = [query(n, 0.3, np.ones(5), activation) for n in networks]
        width = half_width(boxes(name, queries))
        assert np.all(np.isfinite(width)) and np.all(width[:2] < 1e-12)
        if activation == "tanh":
            assert np.all(width[2] < 1e-12)


PRUNED = [  # certificates.md 2.7: x = (1, 1), eps = 0.1, the second weight is removed
    ("relu", (1.0, -2.0), 0.0, 0.1),
    ("tanh", (0.5, -4.0), 0.00187, 0.0393),
]


@pytest.mark.parametrize("name", QUICK_LOCAL)
@pytest.mark.parametrize(("activation", "weights", "dense", "pruned"), PRUNED)
def test_pruning_can_raise_every_local_bound(name, activation, weights, dense, pruned):
    """Removing a weight moves the unit to where it is steeper."""
    keep = np.array([[1, 1], [1, 0]])
    last = Affine(np.ones((1, 1)), np.zeros(1))
    first = [Affine(np.array([weights]) * k, np.zeros(1)) for k in keep]
    queries = [query([layer, last], 0.1, np.ones(2), activation) for layer in first]
    width = half_width(boxes(name, queries))[:, 0]
    if name == "interval_jacobian":  # looser, by the slopes at the ends
        assert width[0] >= dense - 1e-12 and width[1] >= pruned - 5e-5 and width[1] > 3 * width[0]
    else:
        np.testing.assert_allclose(width, [dense, pruned], rtol=2e-3, atol=1e-12)


def test_differences_of_outputs_are_bounded_better_together():
    """certificates.md 1.4: the box of z_0 - z_1 is well inside the difference of the boxes."""
    queries = [random_query(seed, "tanh") for seed in range(BATCH)]
    rows = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, -1.0]])
    pairs = [with_rows(asked, rows) for asked in queries]
    alone, together = half_width(boxes("crown", queries)), half_width(boxes("crown", pairs))
    assert np.all(together[:, 0] <= (alone[:, 0] + alone[:, 1]) * (1 + 1e-9))
    assert np.median(together[:, 0] / (alone[:, 0] + alone[:, 1])) < 0.9


@pytest.mark.parametrize("name", RELAXED)
def test_unknown_activation(name):
    asked = query(network(0, SIZES), 0.1, np.zeros(5), "gelu")
    with pytest.raises(InputError, match=r"activation with rules for bounds.*tanh, relu"):
        BOUNDS[name].bound(asked)
