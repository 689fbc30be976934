"""Without the notices that simulators give when they are imported or load a model."""

import contextlib
import io
import warnings
from typing import Any

import mujoco


@contextlib.contextmanager
def quiet():
    """Silence what a user can do nothing about.

    Brax and jaxopt say that they are no longer maintained, MJX that Warp is not installed, and
    MuJoCo that an XML model uses old attributes (and would append that to a file right here).
    """
    simulator: Any = mujoco  # its type stubs lack these functions
    handler = simulator.get_mju_user_warning()
    simulator.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
            warnings.filterwarnings("ignore", "Brax System, piplines and", UserWarning)
            yield
    finally:
        simulator.set_mju_user_warning(handler)
