"""The sensitivity scan: one gene at a time, through the store."""

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, UnknownNameError
from evoq_moo.evaluation import Evaluator
from evoq_moo.sensitivity import scan_policies, sparse_table


def network_of(model, samples, **options):
    return evoq.QuantizedNetwork(model, samples, progress=False, **options)


def test_values_are_single_gene_differences(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, weight_bits=[2, 4, 8], activation_bits=[3, 8], pinned="none")
    table = evoq.measure_sensitivity(network, progress=False)
    assert table.bits == (2, 3, 4, 8)
    assert table.values.shape == (10, 4)
    for layer, name in enumerate(network.space.layer_names):
        for column, kind, choices in ((0, "weight", (2, 4, 8)), (1, "activation", (3, 8))):
            for b in choices:
                bits = np.full((5, 2), 32)
                bits[layer, column] = b
                assert table.lookup(name, kind, b) == network.difference_of(bits)
    assert np.isnan(table.values[0, 1])


def test_not_quantized_choices_are_zero_and_free(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, weight_bits=[4, 32], activation_bits=[16], pinned="none")
    entries, policies = scan_policies(network.space)
    assert len(entries) == len(policies) == 5
    table = evoq.measure_sensitivity(network, progress=False)
    assert (table.values[:, 1] == 0).all()
    assert (table.values[:, 0] > 0).all()


def test_tied_genes_change_both(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, tied=True)
    _, policies = scan_policies(network.space)
    assert all(len({*p[(p != 32).any(1)].flatten()}) == 1 for p in policies)
    assert len(policies) == 3 * 7


def test_a_second_scan_is_free_and_an_interrupted_one_goes_on(tiny_model, tiny_samples, tmp_path):
    network = network_of(tiny_model, tiny_samples)
    path = tmp_path / "run.sqlite"
    _, policies = scan_policies(network.space)
    evaluator = Evaluator(network, store=path)
    evaluator.differences(policies[:10])
    evaluator.close()
    evaluator = Evaluator(network, store=path)
    table = evoq.measure_sensitivity(network, evaluator=evaluator, progress=False)
    assert evaluator.computed == len(policies) - 10
    evaluator.close()
    again = evoq.measure_sensitivity(network, store=path, progress=False)
    assert np.array_equal(again.values, table.values, equal_nan=True)


def test_store_and_evaluator_exclude_each_other(tiny_model, tiny_samples, tmp_path):
    network = network_of(tiny_model, tiny_samples)
    with pytest.raises(ArgumentError, match="given both"):
        evoq.measure_sensitivity(network, store=tmp_path / "a.sqlite", evaluator=Evaluator(network))


def test_an_open_store_stays_open(tiny_model, tiny_samples, tmp_path):
    network = network_of(tiny_model, tiny_samples, weight_bits=[4, 8], activation_bits=[8])
    with evoq.EvaluationStore(tmp_path / "a.sqlite") as store:
        evoq.measure_sensitivity(network, store=store, progress=False)
        assert store.count() == 6


def test_a_sparse_scan_measures_two_choices_of_each_gene_or_three(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, weight_bits=[2, 3, 4, 5, 7, 8, 16], activation_bits=[2, 7, 8])
    with evoq.EvaluationStore(":memory:") as store:
        sparse = evoq.measure_sensitivity(network, store=store, method="sparse", progress=False)
        weights = sum(gene.kind == "weight" for gene in network.space.genes)
        assert store.count() == 2 * weights + 3 * (network.space.n_var - weights)
        full = evoq.measure_sensitivity(network, store=store, progress=False)
    for j, gene in enumerate(network.space.genes):
        exact = {b: full.values[j, full.bits.index(b)] for b in gene.choices}
        found = {b: sparse.values[j, sparse.bits.index(b)] for b in gene.choices}
        if gene.kind == "weight":  # 5 and 7 are as near to 6: the lower
            fall = (exact[2] / exact[5]) ** (1 / 3)
            between = {b: exact[2] * fall ** (2 - b) for b in (3, 4)}
            beyond = {b: exact[5] * np.sqrt(4 * fall) ** (5 - b) for b in (7, 8)}
            expected = exact | between | beyond | {16: 0}
        else:
            expected = exact
        assert found == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(np.isnan(sparse.values), np.isnan(full.values))


@pytest.mark.parametrize("difference", ["kl", "sqnr"])
def test_a_full_table_tells_what_a_sparse_scan_would_have_given(tiny_model, tiny_samples, difference):
    bits = {"weight_bits": [2, 3, 5, 7, 16], "activation_bits": [3, 4, 8]}
    network = network_of(tiny_model, tiny_samples, difference=difference, **bits)
    sparse, full = (evoq.measure_sensitivity(network, method=m, progress=False) for m in ("sparse", "full"))
    found = sparse_table(full)
    assert np.array_equal(found.values, sparse.values, equal_nan=True)
    assert (found.bits, found.metric, found.space.to_json()) == (sparse.bits, sparse.metric, sparse.space.to_json())


def test_a_full_table_tells_what_a_sparse_scan_of_other_bits_would_have_given(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, weight_bits=[2, 3, 5, 8], activation_bits=[3, 4, 7, 8])
    full = evoq.measure_sensitivity(network, progress=False)
    other = sparse_table(full, near=(3, 8))
    same = (other.values == full.values).all(0)
    assert [bool(s) for s in same] == [b in (3, 8) for b in full.bits]
    entries, _ = scan_policies(network.space, "sparse", near=(3, 8))
    assert entries == [(j, b) for j in range(network.space.n_var) for b in (3, 8)]


def test_a_sparse_scan_of_decibels_is_on_lines(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, difference="sqnr")
    table = evoq.measure_sensitivity(network, method="sparse", progress=False)
    steps = np.diff(table.values, axis=1)
    between, beyond = steps[:, : table.bits.index(6)], steps[:, table.bits.index(6) :]
    np.testing.assert_allclose(between, np.broadcast_to(between[:, :1], between.shape))
    np.testing.assert_allclose(beyond, np.broadcast_to((between[:, :1] - 20 * np.log10(2)) / 2, beyond.shape))


def test_a_sparse_scan_of_a_gene_without_difference_follows_the_rounding_error(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples, weight_bits=[2, 4, 6, 8], activation_bits=[8])
    full = evoq.measure_sensitivity(network, progress=False)
    values = full.values.copy()
    values[:, full.bits.index(6)] = 0
    silent = sparse_table(evoq.SensitivityTable(space=full.space, bits=full.bits, values=values, metric=full.metric))
    weights = [j for j, gene in enumerate(network.space.genes) if gene.kind == "weight"]
    two = full.values[weights, full.bits.index(2)]
    for b, expected in ((2, two), (4, two / 16), (6, 0), (8, 0)):
        np.testing.assert_allclose(silent.values[weights, silent.bits.index(b)], expected)


def test_an_unknown_method_is_named_before_any_work(tiny_model, tiny_samples):
    network = network_of(tiny_model, tiny_samples)
    with pytest.raises(UnknownNameError, match="method: unknown name 'spars'; did you mean 'sparse'"):
        evoq.measure_sensitivity(network, method="spars", progress=False)


def test_the_float_entry_is_the_metric_of_the_float_network_to_itself(tiny_model, tiny_samples):
    """Bug: in decibels 16 and 32 bits stood at 0, worse than any quantized choice; the truth is -200."""
    bits = {"weight_bits": [4, 8, 16, 32], "activation_bits": [8, 32]}
    network = network_of(tiny_model, tiny_samples, difference="sqnr", **bits)
    full, sparse = (evoq.measure_sensitivity(network, method=m, progress=False) for m in ("full", "sparse"))
    for table in (full, sparse, sparse_table(full)):
        floats = table.values[:, [table.bits.index(b) for b in (16, 32)]]
        np.testing.assert_allclose(floats[~np.isnan(floats)], -200)
        assert np.nanargmin(table.values, axis=1).tolist() == [
            table.bits.index(16) if gene.kind == "weight" else table.bits.index(32) for gene in network.space.genes
        ]

    def offset(reference, quantized):
        return 3.0 + sum(float((r - q).abs().sum()) for r, q in zip(reference, quantized, strict=True))

    table = evoq.measure_sensitivity(network_of(tiny_model, tiny_samples, difference=offset, **bits), progress=False)
    assert (table.values[:, table.bits.index(32)] == 3).all()
