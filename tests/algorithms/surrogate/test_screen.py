"""Screening by looks: what a look costs, what is known after it, and who gets another."""

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.algorithms.surrogate._archive import Archive, PolicyScale
from evoq_moo.algorithms.surrogate._samples import hardest_samples
from evoq_moo.algorithms.surrogate._screen import PROBES, Screen
from evoq_moo.network import SampleSubset
from evoq_moo.problems import MixedPrecisionProblem

SHARES = (0.1, 0.3)


@pytest.fixture
def screened(tiny_model, tiny_samples):
    """A problem, the archive of 12 evaluated policies, and a screen."""
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    problem = MixedPrecisionProblem(network)
    scale = PolicyScale(problem, evoq.measure_sensitivity(network, method="sparse", progress=False))
    archive = Archive(scale)
    X = network.space.sample(12, np.random.default_rng(0))
    archive.add(X, problem.evaluate(X, return_as_dictionary=True)["F"], np.ones(12, dtype=bool))
    return problem, archive, Screen.of(problem, X, archive, SHARES, scale)


def test_looks_add_up_to_the_difference_on_all_their_samples(screened):
    problem, archive, screen = screened
    network = problem.network
    order = np.argsort(archive.values, kind="stable")
    probes = archive.X[order[np.linspace(0, 11, PROBES + 2).round().astype(int)[1:-1]]]
    looks = hardest_samples(network, network.space.decode(probes), shares=SHARES)
    assert len(looks) == 2
    samples = len(network.samples)
    assert screen.preparation == pytest.approx(PROBES + 12 * sum(map(len, looks)) / samples)
    X = network.space.sample(20, np.random.default_rng(1))
    assert screen.add(X) == pytest.approx(20 * len(looks[0]) / samples)
    assert not screen.complete.any()
    cost = screen.look_again(archive)
    assert cost == pytest.approx(screen.complete.sum() * len(looks[1]) / samples)
    assert 0 < screen.complete.sum() < 20
    for x, complete in zip(X, screen.complete, strict=True):
        bits = network.space.decode(x[None])[0]
        seen = np.concatenate(looks if complete else looks[:1])
        expected = SampleSubset(network, seen).difference_of(bits)
        known = screen._seen[screen._rows[x.tobytes()]]
        assert known[np.isfinite(known)][-1] == pytest.approx(expected, rel=1e-6)


def test_the_more_was_seen_the_surer_and_only_the_hopeful_are_looked_at_again(screened):
    problem, archive, screen = screened
    X = problem.space.sample(40, np.random.default_rng(2))
    screen.add(X)
    before, unsure = screen.estimates(archive)
    screen.look_again(archive)
    after, sure = screen.estimates(archive)
    again = screen.complete
    assert np.mean(sure[again]) < np.mean(unsure[again])
    known = archive.cells().best_at(problem.evaluate(X, return_as_dictionary=True)["F"][:, 1:])
    assert (before - unsure < known)[again].all()
    assert not (before - unsure < known)[~again].any()
    real = np.log10(problem.evaluate(X, return_as_dictionary=True)["F"][:, 0])
    assert np.abs(after - real)[again].mean() < np.abs(before - real)[again].mean()


def test_removed_policies_are_gone(screened):
    problem, _, screen = screened
    X = problem.space.sample(5, np.random.default_rng(3))
    screen.add(X)
    assert np.array_equal(screen.remove([1, 3]), X[[1, 3]])
    assert np.array_equal(screen.waiting, X[[0, 2, 4]])
