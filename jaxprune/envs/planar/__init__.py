"""Robots that move in a plane: MuJoCo's equations of motion, written for two dimensions.

hopper, walker2d, halfcheetah and the inverted pendulums move in the plane y = 0. There every point
of a body is a sum of arms, each turned by one angle, and all that MuJoCo computes in space with
quaternions and spatial inertias is a handful of small matrix products: the same numbers to
rounding, several times faster, in a fraction of the compile time. In order: `robot` reads the
model, `motion` places the bodies, `constraints` computes what limits and contacts ask for,
`dynamics` solves for the acceleration.
"""

from jaxprune.envs.planar.dynamics import PlanarData, PlanarDynamics
from jaxprune.envs.planar.robot import is_planar

__all__ = ["PlanarData", "PlanarDynamics", "is_planar"]
