"""A mean over samples that come in clusters of their own sizes, such as states of episodes.

    R = sum_i t_i / sum_i w_i      over clusters i with totals t_i and weights w_i

States of one episode are alike: the clusters are the replicates, not what is in them.
"""

import numpy as np

from jaxprune.types import AnyArray


def pseudo_values(total: AnyArray, weight: AnyArray) -> np.ndarray:
    """Returns one number per cluster whose mean is R and whose spread is that of R, `[..., n]`.

        R + (t_i - R w_i) / mean(w)

    To first order R differs from its expectation as the mean of independent such numbers does. Of
    two ratios on the same clusters, the differences of the pseudo-values belong to the difference.
    NaN where all weights are 0. Of clusters of two very different sizes, 91 %, 93 % and 94 % of the
    95 % intervals of `student_mean` hold R for n = 8, 16 and 32 (tests/statistics/test_ratios.py).

    Args:
        total: of each cluster, `[..., n]`.
        weight: of each cluster, not negative, broadcasts.

    Source: Cochran 1977, Sampling Techniques, section 6.3 (linearised ratio estimator).
    """
    total, weight = np.broadcast_arrays(np.asarray(total, float), np.asarray(weight, float))
    mean = weight.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = total.mean(-1, keepdims=True) / mean
        return ratio + (total - ratio * weight) / mean
