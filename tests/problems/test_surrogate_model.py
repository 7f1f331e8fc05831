"""The fitted model against its formula, written out gene by gene."""

import math

import numpy as np
import pytest

from evoq_moo.problems._surrogate_model import NoiseModel

GENES, BITS, DIRECTIONS = 4, 3, 2


def random_model(rng, units):
    """A model of random numbers, some of whose units are switched off by most policies."""
    return NoiseModel(
        own=rng.random((GENES, BITS)),
        shared=rng.normal(size=(GENES, BITS, DIRECTIONS)),
        shift=rng.normal(size=(GENES, BITS)),
        floor=0.01,
        slope=np.array([0.3, 0.9]),
        knots=np.array([-2.0, 1.0]),
        bends=np.array([0.2, -0.4]),
        hidden=rng.normal(size=(GENES, BITS, units)),
        levels=rng.normal(size=units),
        offsets=rng.normal(size=units),
        readout=rng.normal(size=units),
    )


def by_the_formula(model, columns):
    genes = list(enumerate(columns))
    noise = model.floor + sum(model.own[j, b] for j, b in genes)
    for k in range(DIRECTIONS):
        noise += sum(model.shared[j, b, k] for j, b in genes) ** 2
    level = math.log(noise)
    value = model.slope[0] + model.slope[1] * level + sum(model.shift[j, b] for j, b in genes)
    for knot, bend in zip(model.knots, model.bends, strict=True):
        value += bend * math.log1p(math.exp(level - knot))
    result = value
    for k, weight in enumerate(model.readout):
        unit = sum(model.hidden[j, b, k] for j, b in genes) + model.levels[k] * value + model.offsets[k]
        result += weight * max(0.0, unit)
    return math.exp(result)


@pytest.mark.parametrize("units", [0, 3])
def test_the_model_is_its_formula(units):
    rng = np.random.default_rng(units)
    model = random_model(rng, units)
    columns = rng.integers(BITS, size=(30, GENES))
    sums = model.terms[np.arange(GENES), columns].sum(axis=1)
    before = sums.copy()
    expected = [by_the_formula(model, row) for row in columns.tolist()]
    assert model.differences(sums) == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(sums, before)
    alone = np.concatenate([model.differences(sums[i : i + 1]) for i in range(len(sums))])
    assert np.array_equal(alone, model.differences(sums))


def test_arrays_rebuild_the_model():
    model = random_model(np.random.default_rng(1), 2)
    again = NoiseModel.from_arrays(model.arrays())
    assert np.array_equal(again.terms, model.terms)
    assert again.floor == model.floor
