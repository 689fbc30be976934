"""The diagnosis of every cell: what its gradients are worth to an attack, at visited states."""

import numpy as np

from benchmarks.analysis.sanity_checks import diagnosis_statements
from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import DIAGNOSE, key_for
from benchmarks.runtime.arrays import joined, under
from benchmarks.runtime.checkpoints import Progress, Work
from benchmarks.stages.base import Columns, Population, blocks, by_radius, described, repeated
from benchmarks.stages.victims import sources
from benchmarks.stages.visitation import Visits
from jaxprune.attacks import MADConfig
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.evaluation.gradient_masking import diagnose
from jaxprune.types import Key

# Visited states of a cell, and cells diagnosed in one call.
STATES, CELLS = 32, 16


def diagnose_population(
    experiment: Experiment, spec: EnvSpec, population: Population, visits: Visits, work: Work
) -> Columns:
    """The table of the diagnosis: a row per radius, quantity and cell; a chunk per radius."""
    key, config = key_for(experiment.seed, DIAGNOSE), experiment.attack.mad

    def compute(eps: float) -> Columns:
        return _diagnosed(spec, population, visits, eps, key, config, work.progress)

    return by_radius(population, experiment.eps, work, "diagnose", "diagnosis", 1, compute)


def _diagnosed(
    spec: EnvSpec,
    population: Population,
    visits: Visits,
    eps: float,
    key: Key,
    config: MADConfig,
    progress: Progress,
) -> Columns:
    """The rows of one radius, below the name of their table."""
    facts, obs, source = described(spec, population), _visited_states(visits), sources(population)
    parts = []
    for index, size in blocks(len(population.rows), CELLS):
        found = diagnose(
            take(population.policy, population.cells.agent[index]),
            take(population.cells.masks, index),
            eps,
            obs[index],
            key,
            config,
            take(source, index),
        )
        parts.append({k: v[:size] for k, v in diagnosis_statements(found).items()})
        progress.advance(size)
    tables: list[Columns] = []
    for quantity, value in joined(parts).items():
        same = repeated({"eps": eps, "quantity": quantity}, len(population.rows))
        tables.append({**facts, **same, "value": value})
    return under("diagnosis", joined(tables))


def _visited_states(visits: Visits) -> np.ndarray:
    """Raw observations of every cell, spread over what its episodes showed: `[cells, n, obs]`."""
    chosen = []
    for obs, alive in zip(visits.obs, visits.alive, strict=True):
        seen = obs[alive]
        chosen.append(seen[np.linspace(0, len(seen) - 1, STATES).astype(int)])
    return np.stack(chosen)
