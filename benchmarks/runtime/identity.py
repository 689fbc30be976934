"""What determines the results of a run beside its settings: code, versions, switches, devices.

Two runs of the same settings have the same tables if these are the same. What users register is
covered by its source, or where it has none (a notebook) by its bytecode and what that refers to.
"""

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Set
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune
from jaxprune import policy
from jaxprune.attacks import ATTACKS
from jaxprune.certify import activations
from jaxprune.certify.certificates import BOUNDS
from jaxprune.devices import mesh_devices
from jaxprune.envs import TASKS
from jaxprune.ppo import REGIMES
from jaxprune.ppo.robust import REGULARISERS
from jaxprune.pruning import ALLOCATIONS, METHODS, SCHEDULES, SCORES, STRUCTURES
from jaxprune.types import AnyArray

# What was told already, by its id, which holding it keeps its own, or by the name of a module.
Seen: TypeAlias = dict[int | str, Any]
# To which users add members of their own.
FAMILIES: dict[str, Mapping[str, object]] = {
    "activation rules": activations.ACTIVATIONS,
    "activations": policy.ACTIVATIONS,
    "allocations": ALLOCATIONS,
    "attacks": ATTACKS,
    "bounds": BOUNDS,
    "methods": METHODS,
    "regimes": REGIMES,
    "regularisers": REGULARISERS,
    "schedules": SCHEDULES,
    "scores": SCORES,
    "structures": STRUCTURES,
    "tasks": TASKS,
}
# Of JAX, those that change random numbers or the arithmetic.
SWITCHES = (
    "jax_default_dtype_bits",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_jit",
    "jax_enable_custom_prng",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
)
# Of these XLA says what it does, and does nothing else.
REPORTING = ("--xla_dump", "--xla_hlo_profile")
PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx")
OURS = ("jaxprune", "benchmarks")
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def identity() -> dict[str, object]:
    """Returns JSON values that are equal where equal settings have equal results."""
    devices = mesh_devices()
    return {
        "code": _code_digest(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "members": {name: fingerprint(family) for name, family in FAMILIES.items()},
        "switches": switches(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def differences(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Returns the parts in which two identities differ, the entries of a part by name."""
    found = []
    for part, mine in ours.items():
        other = theirs.get(part)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            names = [name for name in mine if mine[name] != other.get(name)]
            found += [f"source of the {name}" if part == "members" else name for name in names]
        elif mine != other:
            found.append(part)
    return found


@cache
def _code_digest() -> str:
    """SHA-256 of the sources of the library and the programs."""
    found = hashlib.sha256()
    for package in (Path(jaxprune.__file__).parent, Path(__file__).parents[1]):
        for file in sorted(package.rglob("*.py")):
            found.update(file.relative_to(package.parent).as_posix().encode())
            found.update(file.read_bytes())
    return found.hexdigest()


def switches() -> Mapping[str, object]:
    """Returns the switches of JAX and XLA that change numbers, as JSON values."""
    held = {name: getattr(jax.config, name) for name in SWITCHES if hasattr(jax.config, name)}
    plain = {name: x if x is None or isinstance(x, int) else str(x) for name, x in held.items()}
    flags = os.environ.get("XLA_FLAGS", "").split()
    return plain | {"XLA_FLAGS": [flag for flag in flags if not flag.startswith(REPORTING)]}


def fingerprint(value: object) -> str:
    """Returns a digest of a value with the code in it, 16 hexadecimal digits.

    Our own code, covered by `_code_digest`, and that of other packages, covered by their versions,
    count by name.
    """
    return _digest(*_lines(value, {}))


def _digest(*lines: str) -> str:
    return hashlib.sha256("\0".join(lines).encode(errors="surrogatepass")).hexdigest()[:16]


def _lines(value: Any, seen: Seen) -> Iterator[str]:
    """Yields the parts of a value; `seen` holds those yielded already, so that ids stay unique."""
    if isinstance(value, PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        yield "again"
        return
    seen[id(value)] = value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        yield from _array(value)
    elif isinstance(value, ModuleType):
        yield from _module(value.__name__, seen)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, CodeType):
        parts = (value.co_names, value.co_varnames, value.co_consts)
        yield from (value.co_code.hex(), *_all(parts, seen))
    elif isinstance(value, MethodType):
        yield from _all((value.__func__, value.__self__), seen)
    elif isinstance(value, functools.partial):
        yield from _all((value.func, value.args, value.keywords), seen)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _all((key, value[key]), seen)
    elif isinstance(value, Set):
        yield from sorted(_digest(*_lines(item, dict(seen))) for item in value)
    elif isinstance(value, list | tuple):
        yield from _all((type(value), len(value), *value), seen)
    elif hasattr(value, "__wrapped__"):  # by jax.jit, functools.cache, ...
        yield from _lines(value.__wrapped__, seen)
    elif isinstance(value, property | staticmethod | classmethod):
        yield from _all([getattr(value, x, None) for x in ("fget", "__func__")], seen)
    else:
        yield from _lines(type(value), seen)
        attributes = getattr(value, "__dict__", {})
        for name in sorted(attributes):
            yield from _all((name, attributes[name]), seen)


def _all(values: Any, seen: Seen) -> Iterator[str]:
    for value in values:
        yield from _lines(value, seen)


def _array(value: AnyArray) -> Iterator[str]:
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    held = np.asarray(jax.random.key_data(value) if is_key else value)
    yield from (str(value.dtype), str(held.shape), hashlib.sha256(held.tobytes()).hexdigest())


def _function(value: FunctionType, seen: Seen) -> Iterator[str]:
    module = value.__module__ or ""
    yield f"{module}.{value.__qualname__}"
    if _is_settled(module) and not _is_ours(module):
        return
    cells = [_content(cell) for cell in value.__closure__ or ()]
    yield from _all((cells, value.__defaults__, value.__kwdefaults__), seen)
    if _is_ours(module):
        return
    yield from _lines(value.__code__, seen)
    if _file(module) is not None:
        yield from _module(module, seen)
        return
    for name in sorted(set(_names(value.__code__)) & value.__globals__.keys()):
        yield from _all((name, value.__globals__[name]), seen)


def _content(cell: CellType) -> Any:
    """Returns the value of a variable of a closure; None where it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names(code: CodeType) -> Iterator[str]:
    """Globals and attributes that code refers to, functions inside of it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _class(value: type, seen: Seen) -> Iterator[str]:
    yield f"{value.__module__}.{value.__qualname__}"
    if _is_settled(value.__module__):
        return
    yield from _all(value.__bases__, seen)
    if _file(value.__module__) is not None:
        yield from _module(value.__module__, seen)
        return
    held = vars(value)
    for name in sorted(held.keys() - {"__dict__", "__weakref__", "__doc__"}):
        yield from _all((name, held[name]), seen)


def _module(name: str, seen: Seen) -> Iterator[str]:
    """The source of a user's module and of those of the user's that it imports."""
    if name in seen:
        return
    module = seen[name] = sys.modules.get(name)
    yield name
    file = _file(name)
    if _is_settled(name) or file is None:
        return
    yield hashlib.sha256(file.read_bytes()).hexdigest()
    for _, held in sorted(vars(module).items()):
        other = held.__name__ if isinstance(held, ModuleType) else getattr(held, "__module__", "")
        if isinstance(other, str) and other in sys.modules and not _is_settled(other):
            yield from _module(other, seen)


def _file(module: str) -> Path | None:
    """The source of a module; None in a notebook, or where it is compiled."""
    file = getattr(sys.modules.get(module), "__file__", None)
    path = Path(file) if file else None
    return path if path is not None and path.is_file() else None


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


@cache
def _is_settled(module: str) -> bool:
    """Whether a module is ours, Python's or of an installed package."""
    top = module.partition(".")[0]
    if top in OURS or top in sys.stdlib_module_names:
        return True
    file = _file(module)
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return file is not None and any(folder in file.resolve().parents for folder in folders)
