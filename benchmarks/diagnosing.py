"""The diagnosis of every cell: what its gradients are worth to an attack, at visited states."""

import numpy as np

from benchmarks.cells import (
    DIAGNOSE,
    Columns,
    Population,
    Progress,
    blocks,
    described,
    key_for,
)
from benchmarks.checks import diagnosis_statements
from benchmarks.experiment import Experiment
from benchmarks.preparing import sources
from benchmarks.visits import Visits
from jaxprune.diagnosis import diagnose
from jaxprune.envs import EnvSpec
from jaxprune.population import take

# Visited states of a cell, and cells diagnosed in one call.
STATES, CELLS = 32, 16


def diagnose_population(
    experiment: Experiment,
    spec: EnvSpec,
    population: Population,
    visits: Visits,
    progress: Progress,
) -> Columns:
    """The table of the diagnosis: a row per radius, quantity and cell."""
    facts, radii = described(spec, population), dict.fromkeys(experiment.eps)
    progress.stage("diagnose", len(radii) * len(population.rows))
    obs, source = visited_states(visits), sources(population)
    tables: list[Columns] = []
    for eps in radii:
        parts = []
        for index, size in blocks(len(population.rows), CELLS):
            policy = take(population.policy, population.cells.agent[index])
            found = diagnose(
                policy,
                take(population.cells.masks, index),
                eps,
                obs[index],
                key_for(experiment, DIAGNOSE),
                experiment.attack.mad,
                take(source, index),
            )
            parts.append({k: v[:size] for k, v in diagnosis_statements(found).items()})
            progress.advance(size)
        for quantity in parts[0]:
            told = {"eps": eps, "quantity": quantity}
            repeated = {k: np.array([v] * len(population.rows)) for k, v in told.items()}
            value = np.concatenate([part[quantity] for part in parts])
            tables.append({**facts, **repeated, "value": value})
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def visited_states(visits: Visits) -> np.ndarray:
    """Raw observations of every cell, spread over what its episodes showed: `[cells, n, obs]`."""
    chosen = []
    for obs, alive in zip(visits.obs, visits.alive, strict=True):
        seen = obs[alive]
        chosen.append(seen[np.linspace(0, len(seen) - 1, STATES).astype(int)])
    return np.stack(chosen)
