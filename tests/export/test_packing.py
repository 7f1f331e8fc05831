import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoq_moo.errors import FormatError
from evoq_moo.export._packing import bits_of, container_of, from_planes, plane_weights, to_planes
from evoq_moo.quantizer import weight_range


@given(bits=st.integers(2, 8), count=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_bit_planes_hold_every_level(bits, count, seed):
    lowest, highest = weight_range(bits)
    levels = np.random.default_rng(seed).integers(lowest, highest + 1, count).astype(np.int8)
    planes = to_planes(levels, bits)
    assert planes.nbytes == bits * -(-count // 8)
    np.testing.assert_array_equal(from_planes(planes, count), levels)


def test_plane_weights_are_twos_complement():
    assert plane_weights(3).tolist() == [1, 2, -4]


@pytest.mark.parametrize("two", [True, False])
def test_containers(two):
    packed = [container_of(b, packed=True, two_bit_types=two) for b in (2, 3, 4, 5, 6, 7, 8, 16)]
    assert packed == ["int2" if two else "bits2", "bits3", "int4", "bits5", "bits6", "bits7", "int8", "float32"]
    plain = [container_of(b, packed=False, two_bit_types=two) for b in (2, 3, 4, 5, 8, 32)]
    assert plain == ["int2" if two else "int4", "int4", "int4", "int8", "int8", "float32"]
    assert [bits_of(c) for c in packed] == [2, 3, 4, 5, 6, 7, 8, 32]
    for wrong in ("bits4", "bits9", "int16", "", "bits", "bits 3"):
        with pytest.raises(FormatError):
            bits_of(wrong)
