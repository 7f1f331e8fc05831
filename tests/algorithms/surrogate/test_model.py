import numpy as np
import pytest

from evoq_moo.algorithms.surrogate._model import (
    DECAY,
    MOST_PLACES,
    WEIGHTS,
    PolicyKernel,
    ResidualModel,
    condition,
    local_moments,
)
from evoq_moo.space import LayerInfo, SearchSpace


@pytest.fixture
def space():
    layers = [LayerInfo(name=f"layer{i}", kind="Conv2d", params=100, macs=1000) for i in range(6)]
    return SearchSpace.build(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))


def rows(space, n, seed=0):
    X = space.sample(n, np.random.default_rng(seed))
    return np.column_stack([X, -0.1 * X.sum(axis=1)])


def test_kernel_is_what_the_module_says(space):
    X, Y = rows(space, 5), rows(space, 4, 1)
    Y[0, :-1] = X[0, :-1]
    Y[1, :-1] = X[1, :-1]
    Y[1, 3] = 2 + (X[1, 3] == 2)
    layer = tuple(gene.layer for gene in space.genes)
    found = PolicyKernel(layer, 0.7)(X, Y)
    for i, x in enumerate(X):
        for j, y in enumerate(Y):
            near = np.exp(-0.5 * ((x[-1] - y[-1]) / 0.7) ** 2)
            same = np.mean(x[:-1] == y[:-1])
            differs = [any(x[k] != y[k] for k in range(12) if layer[k] == i) for i in range(6)]
            roundings = np.mean([DECAY ** sum(differs[: k + 1]) for k in range(6)])
            assert found[i, j] == pytest.approx(np.dot(WEIGHTS, [near, same, roundings]), rel=1e-5)


def test_kernel_is_positive_definite_and_its_diagonal_constant(space):
    kernel = PolicyKernel(tuple(gene.layer for gene in space.genes), 0.7)
    X = rows(space, 60)
    K = kernel(X)
    assert np.linalg.eigvalsh(K).min() > -1e-5
    np.testing.assert_allclose(kernel.diag(X), K.diagonal(), rtol=1e-6)


def test_a_late_change_is_nearer_than_an_early_one(space):
    kernel = PolicyKernel(tuple(gene.layer for gene in space.genes), 0.7)
    x = np.append(space.uniform(4), 0.0).astype(float)
    early, late = x.copy(), x.copy()
    early[0], late[5] = 5, 5
    assert kernel(x[None], late[None])[0, 0] > kernel(x[None], early[None])[0, 0]


def test_predicts_what_it_has_seen_and_is_unsure_elsewhere(space):
    rng = np.random.default_rng(3)
    X = space.sample(80, rng)
    predicted = -0.1 * X.sum(axis=1)
    values = predicted + 0.2 * rng.normal(size=80)
    model = ResidualModel(space, unit=1.0)
    model.fit(X[:60], predicted[:60], values[:60])
    mean, std = model.predict(X, predicted)
    assert np.abs(mean[:60] - values[:60]).max() < 0.05
    assert std[:60].max() < std[60:].min()
    covariance = model.covariance(X[60:], predicted[60:])
    np.testing.assert_allclose(np.sqrt(covariance.diagonal()), std[60:], rtol=1e-4)


def test_conditioning_is_the_same_as_fitting(space):
    covariance = np.array([[2.0, 1.0], [1.0, 3.0]])
    after = condition(covariance, 0)
    np.testing.assert_allclose(after, [[0, 0], [0, 3 - 0.5]], atol=1e-12)


def test_one_policy_or_equal_predictions_are_enough(space):
    X = space.sample(3, np.random.default_rng(0))
    for n in (1, 3):
        model = ResidualModel(space, unit=1.0)
        model.fit(X[:n], np.zeros(n), np.arange(n, dtype=float))
        mean, std = model.predict(X, np.zeros(3))
        assert np.isfinite(mean).all()
        assert np.isfinite(std).all()


def test_local_moments():
    where = np.array([0.0, 0.0, 10.0])
    mean, square = local_moments(np.array([0.0, 10.0, 1e6]), where, np.array([1.0, 3.0, 8.0]), 0.5)
    np.testing.assert_allclose(mean, [2.0 * 2 / 2.05 + 4.0 * 0.05 / 2.05, (8 + 0.2) / 1.05, 4.0])
    assert square[0] == pytest.approx((10 + 0.05 * 74 / 3) / 2.05)


def test_local_moments_at_many_places_are_interpolated():
    rng = np.random.default_rng(0)
    where, values, at = rng.normal(size=80), rng.normal(size=80), np.sort(rng.uniform(-3, 3, 4 * MOST_PLACES))
    exact = [local_moments(part, where, values, 0.3) for part in np.split(at, 8)]
    for found, parts in zip(local_moments(at, where, values, 0.3), zip(*exact, strict=True), strict=True):
        np.testing.assert_allclose(found, np.concatenate(parts), atol=2e-3)
