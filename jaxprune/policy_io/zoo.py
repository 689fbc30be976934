"""The policies that come with the package: `zoo:TASK/REGIME/NUMBER`, such as `zoo:hopper/ppo/3`.

They are dense agents of a committed run, good and bad ones; `jaxprune/zoo/README.md` says what they
score.
"""

from difflib import get_close_matches
from pathlib import Path, PurePath

from jaxprune.validation import InputError

PREFIX = "zoo:"
FOLDER = Path(__file__).parents[1] / "zoo"


def zoo_policies() -> dict[str, Path]:
    """Returns the file of every policy of the zoo, by name."""
    files = {f.relative_to(FOLDER).with_suffix(""): f for f in FOLDER.glob("**/*.npz")}
    return {f"{PREFIX}{name.as_posix()}": files[name] for name in sorted(files)}


def in_zoo(name: str | PurePath) -> bool:
    """Returns whether a path is a name of the zoo."""
    return str(name).startswith(PREFIX)


def zoo_path(name: str | PurePath) -> Path:
    """Returns the file of a policy of the zoo.

    Raises:
        InputError: there is none of this name.
    """
    known = zoo_policies()
    if str(name) in known:
        return known[str(name)]
    near = ", ".join(get_close_matches(str(name), known)) or "jaxprune.policy_io.zoo_policies()"
    raise InputError(f"no policy {str(name)!r} in the zoo: choose another, such as {near}")
