import pytest
import torch

from evoq_moo.errors import ArgumentError
from evoq_moo.export import export_program


def test_a_program_computes_the_same_with_torch_alone(branches, policies_of, tmp_path):
    network = branches.apply(policies_of(branches, 1, seed=9)[0])
    path = tmp_path / "m.pt2"
    size = export_program(network, path, sample=(3, 8, 8))
    assert size == path.stat().st_size
    program = torch.export.load(path).module()
    for count in (1, 3):
        found, expected = program(branches.samples[:count]), network(branches.samples[:count])
        for name, head in expected.items():
            torch.testing.assert_close(found[name], head, rtol=1e-5, atol=1e-5)


def test_bad_arguments(branches, tmp_path):
    with pytest.raises(ArgumentError, match=r"ending in \.pt2"):
        export_program(branches.apply(branches.uniform(8)), tmp_path / "m.pt", sample=(3, 8, 8))
