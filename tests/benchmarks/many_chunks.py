"""Makes a run of which all chunks are there: those of its first block, copied for the others.

python -m tests.benchmarks.many_chunks OUT BLOCKS    # 36 chunks per block
python -m benchmarks.run ... --out OUT               # with `words`, unites them
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.engines.process import begin, prepared
from benchmarks.experiment import parse
from benchmarks.experiment.sharding import Shard
from benchmarks.runtime.arrays import Arrays
from benchmarks.runtime.checkpoints import Chunks, What, Work
from benchmarks.runtime.console import make_console
from benchmarks.runtime.run_folder import CHUNKS
from benchmarks.stages import pipeline
from benchmarks.stages.pipeline import list_chunks
from jaxprune import devices
from tests.quiet import Silent

SETTINGS = "--preset smoke --steps 20480 --attacks random,mad,rs --eps 0.1,0.2,0.3,0.4"


def words(out: str, blocks: int) -> list[str]:
    """The options of the run."""
    victims = ["--victim", "deterministic,stochastic"]
    return [*SETTINGS.split(), *victims, "--seeds", str(blocks), "--chunk-seeds", "1", "--out", out]


def main(argv: Sequence[str]) -> None:
    out, blocks = argv[0], int(argv[1])
    devices.configure()
    ready = prepared(*parse(words(out, blocks)))
    folder = ready.folder
    begin(ready, folder, {"command": "many_chunks"}, make_console())
    chunks = Chunks(folder.path / CHUNKS, folder.identity)
    pipeline.run(ready.design, ready.env, ready.loaded, Work(chunks, Silent()), Shard(0, blocks))

    def copy(what: What, held: Arrays, block: int) -> None:
        other = {
            name: (x + block).astype(x.dtype) if name.endswith("/seed") else x
            for name, x in held.items()
        }
        chunks.put(other, **{**what, "block": block})

    with ThreadPoolExecutor(8) as pool:
        for what in list_chunks(ready.design, range(1)):
            held = chunks.get(**what)
            assert held is not None
            list(pool.map(lambda block, w=what, h=held: copy(w, h, block), range(1, blocks)))


if __name__ == "__main__":
    main(sys.argv[1:])
