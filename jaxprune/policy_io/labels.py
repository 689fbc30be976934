"""What a curve is called: its method, and whatever else tells it from the others of the run."""

from collections.abc import Mapping, Sequence

import numpy as np

DENSE = "dense"
PARTS = ("regime", "method", "allocation", "mode")


class Labels:
    """Names of the curves of a table with the columns `PARTS`.

    The regime is named where the table has several, the allocation and the mode where the method
    has several; unpruned agents are "none".
    """

    def __init__(self, table: Mapping[str, Sequence[str] | np.ndarray]):
        rows = zip(*(table[name] for name in PARTS), strict=True)
        self.keys = list(dict.fromkeys(tuple(map(str, row)) for row in rows))
        self._regimes = len({key[0] for key in self.keys}) > 1

    def of(self, regime: str, method: str, allocation: str, mode: str) -> str:
        """The label of one curve."""
        words = [regime] if self._regimes else []
        words.append(method)
        if mode != DENSE:
            alike = [key for key in self.keys if key[1] == method and key[3] != DENSE]
            words += [allocation] if len({key[2] for key in alike}) > 1 else []
            words += [f"({mode})"] if len({key[3] for key in alike}) > 1 else []
        return " ".join(words)

    def dense(self, regime: str) -> str:
        """The label of the unpruned agents that a curve of this regime is compared with."""
        return self.of(regime, "none", "none", DENSE)

    def column(self, table: Mapping[str, Sequence[str] | np.ndarray]) -> np.ndarray:
        """The label of every row."""
        found = {key: self.of(*key) for key in self.keys}
        rows = zip(*(table[name] for name in PARTS), strict=True)
        return np.array([found[tuple(map(str, row))] for row in rows], object)

    def dense_of(self) -> dict[str, str]:
        """Label of a curve -> label of its unpruned agents."""
        return {self.of(*key): self.dense(key[0]) for key in self.keys}
