"""How samples are cut: each once, in even micro-batches, its mirror image with it."""

import pytest
import torch

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.calibration._micro_batches import cut


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("count", "folds"), [(50, 2), (12, 5), (3, 3), (7, 2)])
def test_every_sample_is_there_once_with_its_mirror_image(count, folds, mirror):
    samples = torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(count))
    before = samples.clone()
    found = cut(samples, folds=folds, mirror=mirror, seed=1)
    stacked = torch.cat(found.batches)
    assert torch.equal(stacked[found.rows], samples[found.order])
    assert sorted(found.order.tolist()) == list(range(count))
    for batch in found.batches if mirror else ():
        one, other = batch.chunk(2)
        assert torch.equal(one.flip(-1), other)
    assert len(stacked) == count * (2 if mirror else 1)
    # A sample is never without its mirror image.
    assert max(map(len, found.batches)) <= MICRO_BATCH + (1 if mirror else 0)
    assert torch.equal(samples, before)


def test_a_state_sees_all_but_its_part_and_the_last_all():
    found = cut(torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)), folds=3, mirror=True, seed=0)
    assert found.held_out.bincount().tolist() == [4, 4, 4]
    parts = [p for p, batch in zip(range(3), found.seen, strict=False) for _ in range(batch.count(False))]
    for state, seen in enumerate(found.seen):
        assert [part != state for part in parts] == list(seen)


def test_a_network_of_one_number_of_samples_gets_that_number():
    samples = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    for mirror in (False, True):
        found = cut(samples, folds=2, mirror=mirror, seed=1, size=4)
        assert {len(batch) for batch in found.batches} == {4}
        assert torch.equal(torch.cat(found.batches)[found.rows], samples[found.order])
        assert sorted(found.order.tolist()) == list(range(7))
