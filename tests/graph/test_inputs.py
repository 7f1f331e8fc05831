"""Samples as one tensor, positional arguments or keyword arguments."""

import numpy as np
import pytest
import torch

from evoq_moo.errors import ArgumentError
from evoq_moo.graph import (
    are_images,
    arguments,
    check_samples,
    count,
    filled,
    join,
    leaves,
    map_samples,
    rows,
    run,
    split,
)

IMAGES, IDS = torch.randn(7, 3, 4, 4), torch.arange(7)
FORMS = {"tensor": IMAGES, "tuple": (IMAGES, IDS), "mapping": {"x": IMAGES, "ids": IDS}}


def equal(a, b):
    assert type(a) is type(b)
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_cut_joined_and_filled_alike(form):
    samples = FORMS[form]
    assert count(samples) == 7
    parts = split(samples, 3)
    assert [count(part) for part in parts] == [3, 3, 1]
    assert equal(join(parts), samples)
    assert equal(rows(samples, slice(3, 6)), parts[1])
    assert equal(rows(samples, [6]), parts[2])
    full = filled(parts[2], 3)
    assert equal(full, rows(samples, [6, 6, 6]))
    assert equal(filled(samples, 5), samples)
    assert equal(map_samples(lambda a, b: a + b, samples, samples), map_samples(lambda a: a * 2, samples))
    assert len(leaves(samples)) == len(arguments(samples)[0]) + len(arguments(samples)[1])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_handed_over_as_it_says(form):
    def network(*args, **kwargs):
        return len(args), sorted(kwargs)

    assert run(network, FORMS[form]) == {"tensor": (1, []), "tuple": (2, []), "mapping": (0, ["ids", "x"])}[form]


def test_images_are_four_axes_of_floats():
    assert are_images(IMAGES)
    assert not any(map(are_images, (IDS, (IMAGES,), {"x": IMAGES}, IMAGES[0], IMAGES.to(torch.uint8))))


@pytest.mark.parametrize("samples", [*FORMS.values(), [IMAGES, IDS], IDS, IDS.bool()[:, None]])
def test_good_samples_are_taken(samples):
    found = check_samples(samples)
    assert isinstance(found, torch.Tensor | tuple | dict)
    assert count(found) == 7


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), "samples: given none"),
        ({}, "samples: given none"),
        (None, "samples: given NoneType"),
        (np.zeros((2, 3)), "samples: given ndarray"),
        ((IMAGES, 3), r"samples\[1\]: given int"),
        ({1: IMAGES}, "samples: given a mapping of"),
        ({"x": None}, r"samples\['x'\]: given NoneType"),
        (IMAGES.double(), "samples: given torch.float64"),
        (IMAGES.half(), "samples: given torch.float16"),
        (IMAGES[:0], "at least one sample"),
        (torch.tensor(1.0), "at least one sample"),
        (torch.zeros(4), r"given torch.float32 \(4,\)"),
        (IMAGES.to("meta"), "samples: given torch.float32"),
        (IMAGES.to_sparse(), "samples: given torch.float32"),
        ((IMAGES, IDS[:3]), r"samples\[1\]: given 3 samples and 7 in another tensor"),
        (IMAGES.index_fill(0, torch.tensor([2, 5]), float("nan")), r"NaN or infinity in samples \[2, 5\]"),
        ({"x": IMAGES * float("inf")}, r"samples\['x'\]: NaN or infinity"),
    ],
)
def test_bad_samples_are_named(samples, message):
    with pytest.raises(ArgumentError, match=message):
        check_samples(samples)
