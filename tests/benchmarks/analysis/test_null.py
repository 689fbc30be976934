"""What a report says where nothing is to be found: simulations under the null.

Agents have a standard deviation of 540 between them, Gaussian or because three in ten fall, and
episodes one of 500; pruned policies are new agents, or the dense ones with a change (one-shot).
"""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.analysis.bounds import bracket
from benchmarks.analysis.curves import CONFIDENCE, TAIL, Curve, Results, cvar_interval
from benchmarks.analysis.verdict import (
    ERROR,
    NEGLIGIBLE,
    POWER,
    Sample,
    sweet_spots,
    verdicts,
)
from benchmarks.analysis.versus_dense import clean_differences, differences, regret_curve
from benchmarks.analysis.worst_case import worst_of
from jaxprune.certify import attacked_return
from jaxprune.statistics import Interval
from jaxprune.statistics.choice import TOLERATED_LOSS
from jaxprune.statistics.folds import picked, strongest
from tests.statistics.test_means import covered

CLEAN, ATTACKED, SEED_SD, EPISODE_SD, EPISODES = 2400.0, 1700.0, 540.0, 500.0, 20
FALL = 0.3
KINDS = ("gaussian", "bimodal")
AGENTS = (5, 10, 24)
slow = pytest.mark.slow


def agents(
    rng: np.random.Generator, kind: str, shared: float, n: int, levels: int, count: int
) -> np.ndarray:
    """Effects of agents at every sparsity, `[count, n, levels]`, of mean 0 and deviation `SEED_SD`.

    Args:
        rng: of all draws.
        kind: of `KINDS`.
        shared: the correlation of a pruned agent with the dense one; neighbours are more alike.
        n: agents of a run.
        levels: sparsities, the dense one first.
        count: runs.
    """
    own = rng.normal(size=(levels, count, n))
    for i in range(1, levels if shared else 0):
        own[i] = 0.9 * own[i - 1] + 0.19**0.5 * own[i]
    latent = np.sqrt(shared) * rng.normal(size=(count, n)) + np.sqrt(1 - shared) * own
    latent = np.moveaxis(latent, 0, -1)
    if kind == "gaussian":
        return SEED_SD * latent
    fell = latent < -0.5244  # of a normal number with probability FALL
    within = rng.normal(0, 0.1 * SEED_SD, latent.shape)
    return (
        np.where(fell, -((1 - FALL) ** 0.5), FALL**0.5)
        * SEED_SD
        / (np.where(fell, FALL, 1 - FALL) ** 0.5)
        + within
    )


def samples(
    kind: str, shared: float, n: int, count: int, gain: float = 0.0, free: bool = False
) -> Iterator[Sample]:
    """Runs of 20 sparsities above 0 in which pruning changes nothing, or adds `gain` at four.

    Args:
        kind: see `agents`.
        shared: see `agents`.
        n: agents of a run.
        count: runs.
        gain: of the attacked return.
        free: whether all pruned policies are sure to keep the clean return.
    """
    rng = np.random.default_rng(n)
    error = EPISODE_SD / EPISODES**0.5
    shape = (count, n, 21)
    attacked = ATTACKED + agents(rng, kind, shared, n, 21, count) + rng.normal(0, error, shape)
    clean = CLEAN + agents(rng, kind, shared, n, 21, count) + rng.normal(0, error, shape)
    if free:
        clean = np.tile(np.linspace(CLEAN, CLEAN + 1, 21), (count, n, 1))
    attacked[..., 4:8] += gain
    for pair in zip(clean, attacked, strict=True):
        yield Sample(np.linspace(0, 0.95, 21), *pair, choosing=pair[1])


def announced(runs: Iterator[Sample]) -> float:
    """The share of runs with a sweet spot."""
    return float(np.mean([sweet_spots({("m", 0.1): r}, (-1e4, 1e4))["m", 0.1].found for r in runs]))


def most(count: int, rate: float = ERROR) -> float:
    """What a share of so many runs with this rate stays below but in one case of 700."""
    return rate + 3 * (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_agents_no_sweet_spot_is_announced(kind):
    assert announced(samples(kind, 0.0, 10, 100, free=True)) <= most(100)


@slow
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("n", AGENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_sweet_spot_is_announced_where_there_is_none(kind, n, shared, free):
    """Choosing and reporting on the same agents would announce one nearly always."""
    count = 600
    runs = list(samples(kind, shared, n, count, free=free))
    assert announced(iter(runs)) <= most(count)
    naive = [sweet_spots({("m", 0.1): r}, (-1e4, 1e4))["m", 0.1].naive.gain > 0 for r in runs[:60]]
    assert np.mean(naive) > 0.5


@slow
@pytest.mark.parametrize("n", AGENTS)
def test_a_gain_that_would_have_been_found_is_found(n):
    """Four of 20 sparsities gain what the null run called detectable: about 80 % find them."""
    null = [
        sweet_spots({("m", 0.1): run}, (-1e4, 1e4))["m", 0.1].detectable
        for run in samples("gaussian", 0.8, n, 50, free=True)
    ]
    gain = float(np.median(null))
    power = announced(samples("gaussian", 0.8, n, 300, gain=gain, free=True))
    assert power == pytest.approx(POWER, abs=0.12)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweet_spot_is_refuted_in_few_runs_and_what_is_none_in_many(kind):
    """Of 24 agents that pruning moves alike; the sweet spot is as small as one can be."""
    rng, count, refuted = np.random.default_rng(0), 300, {}
    smallest = (NEGLIGIBLE * ATTACKED, TOLERATED_LOSS * CLEAN)
    for effect in (smallest, (0.0, 0.0)):
        runs = (run_of(rng, kind, 24, 1.0, *effect) for _ in range(count))
        refuted[effect] = np.mean([verdicts(r)["magnitude", 0.1].refuted for r in runs])
    assert refuted[smallest] <= most(count)
    assert refuted[0.0, 0.0] > 0.8


# --- intervals ------------------------------------------------------------------------------------


def run_of(
    rng: np.random.Generator, kind: str, n: int, shared: float, gain: float = 0, loss: float = 0
) -> Results:
    """A run of two attacks that are alike, 700 below the clean return, and three sparsities.

    The second sparsity adds `gain` to the attacked return and takes `loss` of the clean one.
    """
    effects = agents(rng, kind, shared, n, 4, 1)[0]  # dense first
    change, by_key = np.array([0, 0, 1, 0])[:, None], {}
    attacked = ATTACKED + gain * change
    means = (("none", 0.0, CLEAN - loss * change), ("mad", 0.1, attacked), ("rs", 0.1, attacked))
    for attack, eps, mean in means:
        returns = mean + effects[..., None] + rng.normal(0, EPISODE_SD, (n, 4, EPISODES))
        by_key |= curves(attack, eps, returns)
    return results_of(by_key)


Curves = dict[tuple[str, str, float], Curve]


def curves(attack: str, eps: float, returns: np.ndarray) -> Curves:
    """Those of dense and pruned agents from `[n, S, episodes]`, the dense ones first."""
    grid, found = np.linspace(0, 0.8, returns.shape[1]), {}
    for method, columns in (("none", slice(0, 1)), ("magnitude", slice(1, None))):
        part = returns[:, columns]
        curve = Curve(method, attack, eps, grid[columns], part, part, part[..., 0])
        found[method, attack, eps] = curve
    return found


def results_of(by_key: Curves) -> Results:
    """A run with J_ref = 3000."""
    adversaries = [(attack, eps) for method, attack, eps in by_key if method == "none" and eps]
    dense_of = {"magnitude": "none", "none": "none"}
    return Results(by_key, ["magnitude"], dense_of, {}, adversaries, "deterministic", 3000.0)


def printed(results: Results, tail: float) -> Iterator[tuple[str, Interval, float]]:
    """Name, interval and truth of all that a report prints with an interval."""
    worst, key = worst_of(results, "magnitude", 0.1).curve, ("magnitude", 0.1)
    yield "clean", results.interval(results.clean("magnitude")), CLEAN
    yield "worst of", results.interval(worst), ATTACKED
    yield "CVaR", cvar_interval(results.clean("magnitude").returns, results.limits()), tail
    regret = regret_curve(results, *key)
    yield "regret of pruning", regret.pruning, 0
    yield "regret of attack", regret.robustness, CLEAN - ATTACKED
    yield "regret", regret.total, 3000 - ATTACKED
    verdict = verdicts(results)[key]
    yield "dense clean", verdict.dense_clean.interval, CLEAN
    yield "dense attacked", verdict.dense_attacked.interval, ATTACKED
    yield "within, clean", verdict.within_clean.clean.interval, CLEAN
    yield "within, change", verdict.within_clean.clean_change.interval, 0
    yield "gain", verdict.sweet_spot.gain.interval, 0


def coverage(kind: str, n: int, shared: float, count: int) -> dict[str, float]:
    """By name, the share of intervals of so many runs that hold the truth; of bands, the whole."""
    rng = np.random.default_rng(n)
    lowest = round(TAIL * EPISODES)
    noise = np.sort(rng.normal(0, EPISODE_SD, (20_000, EPISODES)))[:, :lowest].mean()
    held: dict[str, list[float]] = {}
    for _ in range(count):
        results = run_of(rng, kind, n, shared)
        for name, interval, truth in printed(results, CLEAN + noise):
            held.setdefault(name, []).append(covered(interval, truth))
        band = differences(results, "magnitude", 0.1)
        held.setdefault("band", []).append(covered(band, 0) == 1)
        band = clean_differences(results, "magnitude")
        held.setdefault("clean band", []).append(covered(band, 0) == 1)
    return {name: float(np.mean(shares)) for name, shares in held.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_five_agents_hold_the_truth(kind):
    count = 40
    for name, share in coverage(kind, 5, 0.8, count).items():
        assert share >= 0.93 - 3 * (0.05 * 0.95 / count) ** 0.5, name


@slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("n", AGENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_printed_interval_holds_the_truth(kind, n, shared):
    """93 % of those that say 95 %, less 3 standard errors of the simulation (2 %)."""
    count = 400
    for name, share in coverage(kind, n, shared, count).items():
        assert share >= 0.93 - 3 * (0.05 * 0.95 / count) ** 0.5, name


@slow
@pytest.mark.parametrize("episodes", [8, 20, 64])
def test_of_one_agent_nothing_is_announced_and_bands_hold(episodes):
    """Episodes of one policy, five sparsities, four attacks that are alike; all keep the clean."""
    rng, count = np.random.default_rng(episodes), 400
    found, held = [], []
    for _ in range(count):
        by_key = curves("none", 0.0, rng.normal(CLEAN, 1, (1, 6, episodes)))
        for i in range(4):
            by_key |= curves(f"a{i}", 0.1, rng.normal(ATTACKED, EPISODE_SD, (1, 6, episodes)))
        results = results_of(by_key)
        verdict = verdicts(results)["magnitude", 0.1]
        assert verdict.unit == "episodes"
        found.append(verdict.sweet_spot.found)
        held.append(covered(differences(results, "magnitude", 0.1), 0) == 1)
    assert np.mean(found) <= most(count)
    assert np.mean(held) >= 0.93 - 3 * (0.05 * 0.95 / count) ** 0.5


# --- worst of all ---------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("episodes", [4, 20])
def test_the_worst_of_attacks_that_are_alike_is_unbiased(episodes):
    """Their least mean is not: it is one standard error of a cell too low."""
    rng = np.random.default_rng(episodes)
    returns = rng.normal(ATTACKED, EPISODE_SD, (4, 100_000, episodes))
    fair = picked(returns, strongest(returns)).mean(-1)
    assert abs(fair.mean() - ATTACKED) < 3 * fair.std() / len(fair) ** 0.5
    assert returns.mean(-1).min(0).mean() < ATTACKED - 0.9 * EPISODE_SD / episodes**0.5


# --- the bracket's floor --------------------------------------------------------------------------


def test_the_floor_of_a_report_exceeds_the_truth_in_few_cells():
    """The best of two bounds with a gap of 0.5, and means of 5 agents: 400 cells, each a run.

    The clean mean less the gap is above the truth in half of them.
    """
    rng, cells = np.random.default_rng(0), 400
    sparsity = np.linspace(0, 0.95, cells)
    returns = rng.choice([40.0, 60.0], (5, cells, 500))
    curves = {
        ("magnitude", name, eps): Curve(
            "magnitude", name, eps, sparsity, returns, returns, returns[..., 0]
        )
        for name, eps in (("none", 0.0), ("mad", 0.1))
    }
    names = {"magnitude": "magnitude"}
    results = Results(curves, ["magnitude"], names, {}, [("mad", 0.1)], "stochastic")
    floor = attacked_return(
        returns,
        lambda level: np.full((5, cells), 0.5),
        gamma=0.0,
        horizon=1,
        reward_range=(0.0, 100.0),
        comparisons=2,
    )
    told = {"discounted_return_floor": (floor, CONFIDENCE), "value_gap": (0 * floor + 0.5, 1.0)}
    found = bracket(results, certificates(told, sparsity), "magnitude", 0.1)
    assert found is not None
    np.testing.assert_allclose(found.floor, floor.mean(0))
    assert np.mean(found.floor > 50 - 0.5) <= ERROR
    assert np.mean(found.estimate > 50 - 0.5) > 0.4
    assert found.floor.min() > 40  # and it says something


def certificates(
    told: dict[str, tuple[np.ndarray, float]], sparsity: np.ndarray
) -> dict[str, np.ndarray]:
    """The table of quantity -> (values `[seeds, S]`, confidence), of two bounds that agree."""
    rows = [
        ("magnitude", 0.1, quantity, bound, "global", confidence, True, "return", *cell)
        for quantity, (values, confidence) in told.items()
        for bound in ("path", "crown")
        for seed, of_seed in enumerate(values)
        for cell in zip(np.full(len(sparsity), seed), sparsity, of_seed, strict=True)
    ]
    names = ("method", "eps", "quantity", "bound", "scope", "confidence", "monotone", "unit")
    columns = zip((*names, "seed", "sparsity", "value"), zip(*rows, strict=True), strict=True)
    return {name: np.array(column) for name, column in columns}
