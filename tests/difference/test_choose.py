"""What `"auto"` means for outputs of every kind."""

import pytest
import torch

from evoq_moo.difference import METRICS, choose
from evoq_moo.errors import ArgumentError


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


CASES = {
    "logits": ([normal(20, 10)], "kl", "over dimension 1"),
    "binary logits": ([normal(20, 2)], "kl", "over dimension 1"),
    "two tasks": ([normal(20, 10), normal(20, 3)], "kl", "each of the 2 outputs"),
    "log probabilities": ([normal(20, 10).log_softmax(1)], "kl", "over dimension 1"),
    "segmentation": ([normal(2, 21, 8, 8)], "kl", "over dimension 1"),
    "segmentation with a second head": ([normal(2, 21, 8, 8), normal(2, 21, 8, 8)], "kl", "over dimension 1"),
    "tokens": ([normal(2, 7, 30)], "kl", "over dimension 2"),
    "single values": ([normal(20, 1)], "nmse", "a single value"),
    "values": ([normal(20)], "nmse", "a single value"),
    "depth": ([normal(2, 1, 8, 8)], "nmse", "a single value"),
    "flow": ([normal(2, 2, 8, 8)] * 12, "nmse", "2 channels, like flow"),
    "boxes": ([normal(2, 100, 4)], "nmse", "4 channels, like flow, boxes"),
    "images": ([normal(2, 3, 8, 8)], "nmse", "3 channels"),
    "probabilities": ([normal(20, 10).softmax(1)], "nmse", "probabilities already"),
    "dense probabilities": ([normal(2, 21, 8, 8).softmax(1)], "nmse", "probabilities already"),
    "pixels": ([normal(20, 10, 6, 6).sigmoid()], "nmse", "never negative"),
    "scores behind a ReLU, as SqueezeNet's": ([normal(20, 10).relu()], "kl", "class scores"),
    "embeddings": ([torch.nn.functional.normalize(normal(20, 10))], "nmse", "unit vectors"),
    "raw detector": ([normal(2, 100, 21), normal(2, 100, 4)], "nmse", "unlike kinds"),
    "feature pyramid": ([normal(2, 64, 8, 8), normal(2, 64, 4, 4)], "nmse", "unlike kinds"),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_the_rule(kind):
    heads, expected, reason = CASES[kind]
    name, sentence = choose(heads, has_decoder=False, class_dim=None)
    assert name == expected
    assert reason in sentence
    assert sentence.startswith("difference: ")
    assert METRICS[name](heads, heads) == pytest.approx(0, abs=1e-12)


def test_a_detector():
    name, sentence = choose([normal(20, 10)], has_decoder=True, class_dim=None)
    assert (name, "detector" in sentence) == ("nmse", True)
    with pytest.raises(ArgumentError, match="class_dim: given 1 for a detector"):
        choose([normal(20, 10)], has_decoder=True, class_dim=1)


def test_a_user_knows_better():
    name, sentence = choose([normal(2, 2, 8)], has_decoder=False, class_dim=1)
    assert name == "kl"
    assert "over dimension 1 ('kl'), as class_dim says" in sentence
    with pytest.raises(ArgumentError, match="class_dim=3"):
        choose([normal(2, 2, 8)], has_decoder=False, class_dim=3)
