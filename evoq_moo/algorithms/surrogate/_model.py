"""A Gaussian process for what the sensitivity table does not tell of the (log) difference.

Everything here is our choice. Near-lossless differences are close to noise, because a change in one layer makes every
layer behind it round anew; so policies are alike as far as they agree from the input on. The covariance of two
policies is a sum of three parts: how near their predictions by the table are (what the table gets wrong along the
front), the share of genes that are equal (what it gets wrong for single genes), and an average over layers of
`DECAY ** (layers up to there that differ)` (roundings in common). The weights, and the constants of the search, were
chosen on CIFAR-10 ResNet20 with another draw of calibration images than any published figure uses.
"""

import numpy as np
from scipy.special import ndtr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from evoq_moo.space import FloatArray, IntArray, SearchSpace

DECAY = 0.3
"""Covariance left by each layer that differs, for all layers behind it."""

WEIGHTS = (4.0, 0.56, 0.2)
"""Variances of prediction, genes and roundings, in units of the local variance around the trend."""

REACH = 0.7
"""Length over which predictions are alike, and ..."""
SPREAD_REACH = 0.2
"""... over which the spread around the trend is averaged, both in fifths of the range of the first policies' values."""

MOST_PLACES = 256
"""Our choice: local moments at more places than this are interpolated; they are smooth, and places can be thousands."""

_NUGGET = 3e-3


class PolicyKernel(Kernel):  # type: ignore[misc]
    """Covariance of rows `(genes..., prediction)`; see the module.

    Args:
        layer_of_gene: Layer of each gene.
        length: Length over which predictions are alike.
    """

    def __init__(self, layer_of_gene: tuple[int, ...], length: float) -> None:
        self.layer_of_gene = layer_of_gene
        self.length = length

    def __call__(self, X: FloatArray, Y: FloatArray | None = None, eval_gradient: bool = False) -> FloatArray:
        Y = X if Y is None else Y
        near = np.exp(-0.5 * ((X[:, -1, None] - Y[None, :, -1]) / self.length) ** 2)
        values = np.unique(np.concatenate([X[:, :-1], Y[:, :-1]]))
        hot = [(Z[:, :-1, None] == values).astype(np.float32).reshape(len(Z), -1) for Z in (X, Y)]
        same = hot[0] @ hot[1].T
        common = np.ones(near.shape, dtype=np.float32)
        roundings = np.zeros(near.shape, dtype=np.float32)
        codes = zip(_layer_codes(X, self.layer_of_gene).T, _layer_codes(Y, self.layer_of_gene).T, strict=True)
        for ours, theirs in codes:
            np.multiply(common, np.float32(DECAY), out=common, where=ours[:, None] != theirs[None, :])
            roundings += common
        trend, genes, rounding = WEIGHTS
        layers = len(set(self.layer_of_gene))
        return np.asarray(
            trend * near + genes * same / len(self.layer_of_gene) + rounding * roundings / layers, dtype=np.float64
        )

    def diag(self, X: FloatArray) -> FloatArray:
        """Return the variances of rows."""
        return np.full(len(X), float(sum(WEIGHTS)))

    def is_stationary(self) -> bool:
        """Return False."""
        return False


def _layer_codes(X: FloatArray, layer_of_gene: tuple[int, ...]) -> IntArray:
    """Return one number for the bit-widths of each layer of rows `(genes..., prediction)`, int64 `(n, layers)`."""
    layers = sorted(set(layer_of_gene))
    codes = np.zeros((len(X), len(layers)), dtype=np.int64)
    for j, layer in enumerate(layer_of_gene):
        column = layers.index(layer)
        codes[:, column] = 64 * codes[:, column] + X[:, j].astype(np.int64)
    return codes


def local_moments(at: FloatArray, where: FloatArray, values: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Return Gaussian-weighted mean and mean square of values around some places, float64 `(n,)` each.

    More than `MOST_PLACES` places are interpolated between so many.

    Args:
        at: The places `(n,)`.
        where: Where values were seen, `(m,)`.
        values: The values `(m,)`.
        reach: Standard deviation of the weights. One twentieth of a value's weight goes to the mean of all.
    """
    if len(at) > MOST_PLACES:
        grid = np.linspace(at.min(), at.max(), MOST_PLACES)
        moments = local_moments(grid, where, values, reach)
        return np.interp(at, grid, moments[0]), np.interp(at, grid, moments[1])
    weights = np.exp(-0.5 * ((at[:, None] - where[None, :]) / reach) ** 2)
    total = weights.sum(axis=1) + 0.05
    mean = (weights @ values + 0.05 * values.mean()) / total
    square = (weights @ values**2 + 0.05 * (values**2).mean()) / total
    return mean, square


class ResidualModel:
    """Predicts the value (log difference) of policies from those of evaluated ones.

    A quadratic trend in the table's prediction, and a Gaussian process on what is left, in units of its local spread:
    differences scatter much among near-lossless policies and hardly where the network is broken.

    Args:
        space: The search space.
        unit: A fifth of the range of values; lengths are in it.
    """

    def __init__(self, space: SearchSpace, unit: float) -> None:
        self._layers = tuple(gene.layer for gene in space.genes)
        self._unit = unit

    def fit(self, X: IntArray, predicted: FloatArray, values: FloatArray) -> None:
        """Fit to policies.

        Args:
            X: Vectors `(n, n_var)`.
            predicted: The table's (log) predictions `(n,)`.
            values: (Log) differences `(n,)`.
        """
        degree = min(2, len(np.unique(predicted)) - 1)
        self._trend = np.polynomial.Polynomial.fit(predicted, values, degree) if degree else None
        self._mean = float(values.mean())
        self._where = self._trend_at(predicted)
        self._residuals = values - self._where
        scale = self._scale(self._where)
        kernel = PolicyKernel(self._layers, REACH * self._unit)
        self._process = GaussianProcessRegressor(kernel, alpha=_NUGGET, optimizer=None)
        self._process.fit(np.column_stack([X, predicted]), self._residuals / scale)

    def _trend_at(self, predicted: FloatArray) -> FloatArray:
        return np.full(len(predicted), self._mean) if self._trend is None else np.asarray(self._trend(predicted))

    def _scale(self, where: FloatArray) -> FloatArray:
        square = local_moments(where, self._where, self._residuals, SPREAD_REACH * self._unit)[1]
        return np.sqrt(square + (0.01 * self._unit) ** 2)

    def predict(self, X: IntArray, predicted: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return means and standard deviations of the (log) differences of policies, float64 `(n,)` each."""
        where = self._trend_at(predicted)
        scale = self._scale(where)
        mean, std = self._process.predict(np.column_stack([X, predicted]), return_std=True)
        return where + mean * scale, std * scale

    def covariance(self, X: IntArray, predicted: FloatArray) -> FloatArray:
        """Return the covariance of the (log) differences of policies, float64 `(n, n)`."""
        scale = self._scale(self._trend_at(predicted))
        covariance = self._process.predict(np.column_stack([X, predicted]), return_cov=True)[1]
        return np.asarray(covariance * scale[:, None] * scale[None, :])


def expected_shortfall(below: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    """Return E[max(below - value, 0)] of normal values, elementwise float64; `std` must be positive."""
    z = (below - mean) / std
    return np.asarray(std * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)))


def condition(covariance: FloatArray, index: int) -> FloatArray:
    """Return a covariance after one of the values is known, float64 `(n, n)`."""
    column = covariance[:, index]
    return np.asarray(covariance - np.outer(column, column) / max(float(column[index]), 1e-12))
