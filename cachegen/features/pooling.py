"""Fewer tokens per image: the mean over k x k patches of the grid, taken before the projector (condition `pool`).

Windows lie side by side from the upper left corner, so that every patch counts in exactly one. Where k does not divide
a side of the grid, the windows at its right or lower edge are narrower, and are the means of what they have: 16 x 16
patches with k = 3 become 6 x 6. Means are float32 sums, rounded to the type of the features as a store would be.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cachegen.common.errors import StoreError

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int]
"""(rows, columns) of patches, which a store lists row by row."""


def grid_of(attributes: Mapping[str, Any], patches: int) -> Grid | None:
    """The grid of a store with these attributes: the recorded one, else a square; None if neither is there."""
    if "grid" in attributes:
        rows, columns = map(int, attributes["grid"].split("x"))
        return rows, columns
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def pooled_grid(attributes: Mapping[str, Any], patches: int, pool: int) -> Grid:
    """Rows and columns of windows; (1, P) without pooling, whatever the grid. Raises `StoreError` if it cannot be."""
    if pool == 1:
        return 1, patches
    grid = grid_of(attributes, patches)
    if grid is None:
        raise StoreError(
            f"pool = {pool} needs a grid of patches, and these features have {patches:,} per image, which are no "
            "square; use pool = 1, or import them as (N, H, W, D)"
        )
    if pool > max(grid):
        raise StoreError(
            f"pool = {pool} is more than the features' {grid[0]} x {grid[1]} patches; use at most {max(grid)}"
        )
    return -(-grid[0] // pool), -(-grid[1] // pool)


def pooled_count(attributes: Mapping[str, Any], patches: int, pool: int) -> int:
    """Patches per image that are left. Raises as `pooled_grid`."""
    return math.prod(pooled_grid(attributes, patches, pool))


def pool_patches(features_IPV: "torch.Tensor", attributes: Mapping[str, Any], pool: int) -> "torch.Tensor":
    """(I, W, V) window means of (I, P, V) features, in their type. Raises as `pooled_grid`."""
    if pool == 1:
        return features_IPV
    from torch.nn import functional

    images, patches, width = features_IPV.shape
    rows, columns = pooled_grid(attributes, patches, pool)
    grid = grid_of(attributes, patches)
    assert grid is not None
    x_IVHW = features_IPV.float().reshape(images, *grid, width).permute(0, 3, 1, 2)
    means_IVHW = functional.avg_pool2d(x_IVHW, pool, ceil_mode=True)
    return means_IVHW.permute(0, 2, 3, 1).reshape(images, rows * columns, width).to(features_IPV.dtype)
