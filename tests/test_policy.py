"""Networks, normaliser and action distributions against scipy and numpy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxprune.policy import (
    HEADS,
    Categorical,
    Gaussian,
    action_distribution,
    affine_layers,
    init_policy,
    inverse_std,
    normalise,
    state_value,
)
from jaxprune.types import ObsStats
from jaxprune.validation import InputError
from tests.policies import drawn_policy

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def floats(low: float, high: float, size: int):
    return arrays(np.float32, size, elements=st.floats(low, high, width=32))


means, log_stds, actions = floats(-3, 3, 3), floats(-2, 1, 3), floats(-5, 5, 3)
logits = floats(-8, 8, 4)


def numpy_forward(network, x: np.ndarray, activation: str) -> np.ndarray:
    """y = W x + b layer by layer, in float64."""
    for i, layer in enumerate(network):
        x = np.float64(layer.weight) @ x + np.float64(layer.bias)
        if i < len(network) - 1:
            x = ACTIVATIONS[activation](x)
    return x


# --- Gaussian


@settings(deadline=None, max_examples=30)
@given(means, log_stds, actions)
def test_gaussian_log_prob_and_entropy_are_scipys(mean, log_std, action):
    ours = Gaussian(jnp.asarray(mean), jnp.asarray(log_std))
    exact = scipy.stats.multivariate_normal(np.float64(mean), np.diag(np.exp(2.0 * log_std)))
    assert float(ours.log_prob(action)) == pytest.approx(exact.logpdf(action), rel=1e-5, abs=1e-5)
    assert float(ours.entropy()) == pytest.approx(exact.entropy(), rel=1e-5, abs=1e-5)


@settings(deadline=None, max_examples=15)
@given(means, log_stds, means, log_stds)
def test_gaussian_kl_is_the_integral_of_its_definition(mean, log_std, mean2, log_std2):
    """Independent dimensions: KL is the sum of one-dimensional integrals of p (log p - log q)."""
    ours = Gaussian(jnp.asarray(mean), jnp.asarray(log_std)).kl(
        Gaussian(jnp.asarray(mean2), jnp.asarray(log_std2))
    )
    exact = 0.0
    for m, s, m2, s2 in zip(mean, log_std, mean2, log_std2, strict=True):
        p = scipy.stats.norm(float(m), np.exp(float(s)))
        q = scipy.stats.norm(float(m2), np.exp(float(s2)))

        def integrand(z, p=p, q=q):
            x = p.mean() + p.std() * z  # standardised: the mass lies where quad looks for it
            return p.std() * p.pdf(x) * (p.logpdf(x) - q.logpdf(x))

        exact += scipy.integrate.quad(integrand, -12, 12)[0]
    assert float(ours) == pytest.approx(exact, rel=2e-5, abs=2e-5)


def test_gaussian_samples_have_the_moments_and_the_shape_of_the_distribution():
    mean, log_std = jnp.array([-1.0, 0.0, 2.0]), jnp.array([-1.0, 0.0, 0.5])
    keys = jax.random.split(jax.random.key(0), 20_000)
    samples = np.asarray(jax.jit(jax.vmap(Gaussian(mean, log_std).sample))(keys))
    std = np.exp(log_std)
    standard_error = std / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - mean) < 4 * standard_error)
    assert np.all(np.abs(samples.std(0) - std) < 4 * standard_error / np.sqrt(2))
    for i in range(3):
        assert scipy.stats.kstest((samples[:, i] - mean[i]) / std[i], "norm").pvalue > 0.01
    correlation = np.corrcoef(samples.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 4 / np.sqrt(len(samples)))


@settings(deadline=None, max_examples=30)
@given(means, means, log_stds)
def test_gaussian_distance_is_mahalanobis_and_the_root_of_twice_the_kl(mean, mean2, log_std):
    p = Gaussian(jnp.asarray(mean), jnp.asarray(log_std))
    q = Gaussian(jnp.asarray(mean2), jnp.asarray(log_std))
    by_hand = np.sqrt(np.sum((np.float64(mean) - mean2) ** 2 / np.exp(2.0 * log_std)))
    assert float(p.distance(q)) == pytest.approx(by_hand, rel=1e-5)
    assert float(p.kl(q)) == pytest.approx(by_hand**2 / 2, rel=1e-4, abs=1e-6)


# --- Categorical


@settings(deadline=None, max_examples=30)
@given(logits, logits)
def test_categorical_is_scipys(one, other):
    p, q = Categorical(jnp.asarray(one)), Categorical(jnp.asarray(other))
    log_p = scipy.special.log_softmax(np.float64(one))
    log_q = scipy.special.log_softmax(np.float64(other))
    for action in range(4):
        assert float(p.log_prob(jnp.int32(action))) == pytest.approx(log_p[action], abs=1e-5)
    assert float(p.entropy()) == pytest.approx(scipy.stats.entropy(np.exp(log_p)), abs=1e-5)
    kl = scipy.stats.entropy(np.exp(log_p), np.exp(log_q))
    assert float(p.kl(q)) == pytest.approx(kl, rel=1e-5, abs=1e-5)
    assert float(p.distance(q)) == np.max(np.abs(one - other))


def exact_kl(p, q) -> float:
    """Of logits, in float64 with p log p = 0 at p = 0."""
    log_p, log_q = (scipy.special.log_softmax(np.float64(x)) for x in (p, q))
    return float(np.sum(np.where(log_p > -700, np.exp(log_p) * (log_p - log_q), 0.0)))


# Pairs of logits; the ratio of two probabilities is beyond float32, or infinite, in most.
CONFIDENT = [
    ([90.0, 0.0], [0.0, 3.0]),
    ([88.0, 0.0], [0.0, 3.0]),
    ([39.9, 0.0, 1.0], [0.0, 3.0, 2.0]),
    ([40.1, 0.0, 1.0], [0.0, 3.0, 2.0]),
    ([1e3, 0.0, -1e3], [-1e3, 0.0, 1e3]),
    ([1e3, 1e3, 0.0], [1e3, 1e3, 500.0]),
    ([1e30, 0.0, 0.0], [0.0, 1e30, 0.0]),
    ([0.0, 0.0, -1e38], [1e38, 0.0, 0.0]),
    ([0.0, 1e-3, 0.0], [0.0, 0.0, 1e-3]),
]


kl_and_slopes = jax.jit(jax.value_and_grad(lambda p, q: Categorical(p).kl(Categorical(q)), (0, 1)))
entropy_and_slope = jax.jit(jax.value_and_grad(lambda p: Categorical(p).entropy()))


@pytest.mark.parametrize(("one", "other"), CONFIDENT)
def test_kl_of_confident_choices_is_right_and_all_of_it_finite(one, other):
    """KL([90, 0] || [0, 3]) is 3.0486 and was NaN, 0 times infinity; at 88 it was 2.0960."""
    p, q = np.asarray(one, np.float32), np.asarray(other, np.float32)
    value, slopes = kl_and_slopes(p, q)
    assert float(value) == pytest.approx(exact_kl(one, other), rel=1e-5)
    # d KL / d q = softmax(q) - softmax(p)
    expected = scipy.special.softmax(np.float64(other)) - scipy.special.softmax(np.float64(one))
    np.testing.assert_allclose(slopes[1], expected, atol=1e-6)
    entropy, slope = entropy_and_slope(p)
    assert np.isfinite(
        [*slopes[0], entropy, *slope, *(Categorical(p).log_prob(i) for i in (0, 1))]
    ).all()
    assert entropy == pytest.approx(scipy.stats.entropy(scipy.special.softmax(one)), abs=1e-6)


def test_kl_of_logits_at_the_end_of_the_numbers_is_finite():
    value, slopes = kl_and_slopes(*np.array([[3e38, -3e38, 0.0], [-3e38, 3e38, 0.0]], np.float32))
    assert np.isfinite([value, *slopes[0], *slopes[1]]).all() and value > 1e36


def test_kl_of_extreme_deviations_is_finite_and_right_where_float32_can_say_it():
    """float64 tells what is right; beyond 1e35 it still grows with the change of the mean."""
    stds = (-100.0, -50.0, -20.0, 10.0, 100.0)
    cases = [
        (s, t, step) for s in stds for t in (s, -50.0, 10.0) for step in (0.0, 1e-6, 0.5, 1e10)
    ]
    log_std, other, step = np.float32(cases).T

    def kl(step, mean, log_std, other):
        moved = mean + jnp.array([step, 0.0])
        return Gaussian(mean, jnp.full(2, log_std)).kl(Gaussian(moved, jnp.full(2, other)))

    means = np.zeros((len(cases), 2), np.float32)
    both = jax.jit(jax.vmap(jax.value_and_grad(kl, (0, 1, 2, 3))))
    value, slopes = both(step, means, log_std, other)
    assert np.all(np.isfinite(value)) and all(np.all(np.isfinite(x)) for x in slopes)
    ratio = np.exp(2 * (np.float64(log_std) - other))
    exact = (
        ratio
        - 1
        + (np.float64(step) * np.exp(-np.float64(other))) ** 2 / 2
        + 2.0 * (other - log_std)
    )
    sayable = (exact < 1e34) & (np.minimum(log_std, other) > -80)
    assert sayable.sum() > len(cases) / 3
    np.testing.assert_allclose(value[sayable], exact[sayable], rtol=1e-4, atol=1e-4)
    same = (log_std == other) & (log_std < 100)
    further, _ = both(3 * step + 1, means, log_std, other)
    assert np.all(np.isfinite(further)) and np.all(further[same] > value[same])
    assert np.all(slopes[0][same & (step > 0)] > 0)
    far = lambda x, s: Gaussian(jnp.zeros(2), jnp.full(2, s)).distance(  # noqa: E731
        Gaussian(x * jnp.ones(2), 0.0)
    )
    distance = jax.jit(jax.vmap(far))(step, log_std)
    wide = log_std > -80
    expected = np.float64(step) * 2**0.5 * np.exp(-np.float64(log_std))
    np.testing.assert_allclose(distance[wide], expected[wide], rtol=1e-5, atol=1e-30)
    assert not np.isnan(distance).any()


def test_categorical_samples_have_the_frequencies_of_the_softmax():
    head = Categorical(jnp.array([-1.0, 0.0, 0.5, 1.5]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    counts = np.bincount(jax.jit(jax.vmap(head.sample))(keys), minlength=4)
    expected = len(keys) * scipy.special.softmax(np.float64(head.logits))
    assert scipy.stats.chisquare(counts, expected, sum_check=False).pvalue > 0.01


def test_the_mode_is_the_mean_or_the_likeliest_action():
    assert np.array_equal(Gaussian(jnp.array([1.0, -2.0]), jnp.zeros(2)).mode(), [1.0, -2.0])
    assert int(Categorical(jnp.array([0.0, 3.0, 2.0])).mode()) == 1


@pytest.mark.parametrize("head", HEADS)
def test_a_distribution_is_no_distance_from_itself(head):
    p = HEADS[head].from_output(jnp.array([0.3, -1.2, 4.0]), jnp.array([-0.5, 0.0, 0.5]))
    assert float(p.kl(p)) == 0.0
    assert float(p.distance(p)) == 0.0


# --- normaliser


@settings(deadline=None, max_examples=30)
@given(floats(-100, 100, 3), floats(-10, 10, 3), floats(0.125, 8, 3), st.floats(0.5, 20))
def test_normalise_is_the_formula(obs, mean, std, clip):
    stats = ObsStats(jnp.asarray(mean), jnp.asarray(std), jnp.float32(1))
    policy = replace(drawn_policy(3, 1), obs_stats=stats, obs_clip=clip, obs_std_offset=0.25)
    by_hand = np.clip((np.float64(obs) - mean) / (np.float64(std) + 0.25), -clip, clip)
    np.testing.assert_allclose(normalise(policy, obs), by_hand, rtol=1e-5, atol=1e-5)


def test_normalise_clips_at_ten_and_survives_a_constant_observation():
    """Std 0: the offset alone divides; 0 / offset = 0 and anything else is clipped."""
    policy = drawn_policy(4, 1)
    stats = ObsStats(jnp.zeros(4), jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.float32(1))
    x = normalise(replace(policy, obs_stats=stats), jnp.array([1e6, -1e6, 0.0, 1.0]))
    assert np.array_equal(x, [10.0, -10.0, 0.0, 10.0])


def test_a_fresh_normaliser_does_nothing():
    policy = init_policy(jax.random.key(0), 3, 1)
    obs = jnp.array([-2.5, 0.0, 9.5])
    assert np.array_equal(normalise(policy, obs), obs)


# --- networks


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (7, 6), (4, 3, 2)])
def test_affine_layers_are_the_actor(activation, hidden):
    """The certificates see W x + b; numpy with those layers gives the policy's mean."""
    policy = drawn_policy(3, 2, hidden, activation=activation)
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    layers = affine_layers(policy)
    assert [layer.weight.shape for layer in layers] == list(
        zip((*hidden, 2), (3, *hidden), strict=True)
    )
    mean = action_distribution(policy, x).mode()
    np.testing.assert_allclose(mean, numpy_forward(layers, x, activation), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_critic_is_a_network_of_its_own(activation):
    policy = drawn_policy(3, 2, (5, 4), activation=activation)
    critic = replace(policy, params=policy.params._replace(actor=policy.params.critic))
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    by_hand = numpy_forward(affine_layers(critic), x, activation)
    assert by_hand.shape == (1,)
    assert float(state_value(policy, x)) == pytest.approx(by_hand[0], rel=1e-5)


def test_the_heads_read_the_output_and_log_std():
    x = jnp.array([0.5, -1.0, 2.0])
    gaussian = init_policy(jax.random.key(3), 3, 2, init_log_std=-0.5)
    head = action_distribution(gaussian, x)
    assert isinstance(head, Gaussian)
    assert np.array_equal(head.log_std, [-0.5, -0.5])
    np.testing.assert_allclose(inverse_std(gaussian), [np.exp(0.5)] * 2, rtol=1e-6)

    categorical = init_policy(jax.random.key(3), 3, 2, discrete=True)
    assert inverse_std(categorical) is None
    logits = action_distribution(categorical, x)
    assert isinstance(logits, Categorical)
    # Same key, same kernels: only the meaning of the output differs.
    assert np.array_equal(logits.logits, head.mode())


@pytest.mark.parametrize("discrete", [False, True])
def test_init_policy_shapes(discrete):
    policy = init_policy(jax.random.key(0), 5, 3, discrete=discrete, hidden=(16, 8))
    for network, outputs in ((policy.params.actor, 3), (policy.params.critic, 1)):
        widths = [5, 16, 8, outputs]
        assert list(network) == ["layer_0", "layer_1", "layer_2"]
        for i, layer in enumerate(network.values()):
            assert layer["kernel"].shape == (widths[i], widths[i + 1])
            assert layer["bias"].shape == (widths[i + 1],)
    assert policy.params.log_std.shape == ((0,) if discrete else (3,))
    assert policy.distribution == ("categorical" if discrete else "normal")
    assert [x.shape for x in policy.obs_stats] == [(5,), (5,), ()]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(policy))


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_init_policy_kernels_are_orthogonal_with_their_gains(network):
    """K^T K = gain^2 I over the shorter side; gain sqrt(2), last 0.01 (actor) or 1 (critic)."""
    policy = init_policy(jax.random.key(0), 5, 3, hidden=(16, 8))
    layers = list(getattr(policy.params, network).values())
    gains = [2**0.5, 2**0.5, {"actor": 0.01, "critic": 1.0}[network]]
    for layer, gain in zip(layers, gains, strict=True):
        kernel = np.float64(layer["kernel"])
        short = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
        identity = np.eye(len(short))
        np.testing.assert_allclose(short @ short.T / gain**2, identity, atol=1e-5)
        assert np.all(layer["bias"] == 0)


def test_init_policy_uses_its_key_for_actor_and_critic_apart():
    one, two = (init_policy(jax.random.key(i), 4, 1, hidden=(8,)) for i in range(2))
    kernel = lambda p, net: getattr(p.params, net)["layer_0"]["kernel"]  # noqa: E731
    assert not np.array_equal(kernel(one, "actor"), kernel(two, "actor"))
    assert not np.array_equal(kernel(one, "actor"), kernel(one, "critic"))


def test_an_unknown_activation_lists_the_known_ones():
    with pytest.raises(InputError, match=r"activation 'thanh': did you mean 'tanh'"):
        init_policy(jax.random.key(0), 3, 1, activation="thanh")
