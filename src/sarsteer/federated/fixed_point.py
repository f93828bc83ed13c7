"""Numbers as integers modulo 2⁶⁴, so that masks cancel exactly and the order of sites changes no bit.

A value is divided by its part's unit, so that a record adds at most 1, and multiplied by the scale
``2^(62 − ⌈log₂(sites · records)⌉)``. The sum over all sites then stays below 2⁶², with a factor of two to spare. With
10 sites of at most 65,536 records the scale is 2⁴²: a value is rounded by at most 2⁻⁴³ of its unit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.federated.errors import FederationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Words = NDArray[np.uint64]

_BITS = 62


def scale_of(sites: int, records: int) -> float:
    """The scale for sums over ``sites`` with at most ``records`` records each.

    Raises:
        FederationError: the sums would keep fewer than 24 bits after the point.

    """
    bits = _BITS - math.ceil(math.log2(max(sites * records, 1)))
    if bits < 24:
        raise FederationError(f"{sites} sites of {records} records do not fit into 64 bits; lower max_records")
    return float(2**bits)


def encode(values: Floats, scale: float, records: int) -> Words:
    """Integers modulo 2⁶⁴.

    Raises:
        FederationError: a value is not finite, or larger than ``records`` units: the sum could overflow.

    """
    if not np.isfinite(values).all():
        raise FederationError("a sum is NaN or infinite; load the model in bfloat16 or float32")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > records:
        raise FederationError(
            f"a sum of {largest:.4g} units is above the plan's {records} records and could overflow; plan with more "
            "records, or give fewer clips"
        )
    return np.rint(values * scale).astype(np.int64).view(np.uint64)


def decode(words: Words, scale: float) -> Floats:
    """The inverse of ``encode``, for sums of encoded values."""
    return words.view(np.int64).astype(np.float64) / scale


def rounding(sites: int, scale: float) -> float:
    """The standard deviation of a sum's rounding error, in units."""
    return math.sqrt(sites / 12) / scale
