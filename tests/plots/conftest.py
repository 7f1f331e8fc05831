"""A front, a space and a table small enough to check every number that is drawn."""

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.sensitivity import SensitivityTable

NAMES = ("_conv$1$", "block.<b>conv</b>", "fc")
VALUES = [(1.0, 1.0, 1.0), (0.1, 2.0, 2.0), (0.01, 3.0, 5.0), (0.001, 4.0, 11.0)]


@pytest.fixture
def make_front():
    """Makes fronts of (difference, size, bops) rows; layer names hold markup."""

    def make(values=VALUES, objectives=("difference", "bops"), metric="kl"):
        points = [
            FrontPoint(
                policy=evoq.Policy(NAMES, (8, 2 + i % 7, 8), (8, 8, 2 + i % 7)),
                difference=d,
                costs={"size": s, "bops": b},
            )
            for i, (d, s, b) in enumerate(values)
        ]
        return ParetoFront(points=tuple(points), objectives=objectives, provenance={"metric": metric})

    return make


@pytest.fixture
def front(make_front):
    return make_front()


@pytest.fixture
def space():
    layers = [
        evoq.LayerInfo(name=n, kind="Conv2d", params=10 * (i + 1), macs=100 * (i + 1)) for i, n in enumerate(NAMES)
    ]
    return evoq.SearchSpace.build(layers, weight_bits=(2, 4, 32), activation_bits=(2, 4), pinned={NAMES[0]: 8})


@pytest.fixture
def table(space):
    values = np.full((space.n_var, 3), np.nan)
    values[:, :2] = np.array([[0.4, 0.04], [0.2, 0.02], [0.3, 0.03], [0.1, 0.01]])
    values[:2, 2] = 0.0
    return SensitivityTable(space=space, bits=(2, 4, 32), values=values, metric="kl")


def labels_of(ax):
    """Return the texts of the legend, without what keeps names from being hidden."""
    return [text.get_text().removeprefix("\u200b") for text in ax.get_legend().get_texts()]
