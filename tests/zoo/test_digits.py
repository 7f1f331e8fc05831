import logging
import os
import stat

import numpy as np
import pytest
import torch

from evoq_moo import zoo
from evoq_moo.accuracy import evaluate_accuracy
from evoq_moo.errors import UnknownNameError
from evoq_moo.zoo import digits


@pytest.fixture(scope="module")
def trained():
    return digits.train()


@pytest.fixture
def cache(tmp_path, monkeypatch, trained):
    """An empty cache folder; training again gives the weights at once."""
    monkeypatch.setenv("EVOQ_CACHE", str(tmp_path / "cache"))
    calls = []
    monkeypatch.setattr(digits, "train", lambda: calls.append(1) or trained)
    return tmp_path / "cache", calls


def test_splits_are_fixed_disjoint_and_balanced():
    train, train_labels = digits.load_images("train")
    test, test_labels = digits.load_images("test")
    assert train.shape == (1297, 8, 8, 1)
    assert test.shape == (500, 8, 8, 1)
    assert train.dtype == test.dtype == np.uint8
    assert train_labels.dtype == test_labels.dtype == np.int64
    assert (train.min(), train.max()) == (0, 255)
    assert np.bincount(test_labels).min() >= 40
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}
    assert np.array_equal(digits.load_images("test")[0], test)


def test_unknown_split():
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        digits.load_images("tests")


def test_preprocess_is_of_the_training_images():
    images = digits.load_images("train")[0] / 255
    assert digits.PREPROCESS.mean[0] == pytest.approx(images.mean(), abs=1e-3)
    assert digits.PREPROCESS.std[0] == pytest.approx(images.std(), abs=1e-3)


def test_network_has_the_parts_worth_quantizing():
    layers = [m for m in digits.DigitsNet().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 9
    assert any(m.kernel_size == (1, 1) and m.stride == (2, 2) for m in layers[:-1])


def test_accuracy_on_held_out_digits(cache):
    model = zoo.load("digits")
    images, labels = model.entry.default_labelled()
    assert model.pretrained
    assert evaluate_accuracy(model.network, images, labels=labels).top1 >= 0.98
    assert np.array_equal(model.entry.default_images(), digits.load_images("train")[0])


def test_training_is_deterministic_and_leaves_torch_alone(trained):
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        with torch.no_grad():
            again = digits.train()
        assert torch.get_num_threads() == (1 if threads > 1 else 2)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(3), expected)
    assert trained.keys() == again.keys()
    assert all(torch.equal(trained[name], again[name]) for name in trained)


def test_weights_are_trained_once(cache):
    folder, calls = cache
    first, second = zoo.load("digits"), zoo.load("digits")
    assert len(calls) == 1
    assert first.weights_sha256 == second.weights_sha256
    assert [file.name for file in folder.iterdir()] == [digits.cache_file().name]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
def test_damaged_cache_is_trained_again_with_a_warning(cache, caplog, damage):
    zoo.load("digits")
    file = digits.cache_file()
    content = file.read_bytes()
    flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    file.write_bytes({"empty": b"", "text": b"hello, hello", "truncated": content[:-10], "flipped": flipped}[damage])
    with caplog.at_level(logging.WARNING):
        zoo.load("digits")
    assert len(cache[1]) == 2
    assert "training the digits network again" in caplog.text
    assert file.read_bytes() == content


def test_unwritable_cache_is_a_warning(cache, caplog, monkeypatch):
    cache[0].write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert zoo.load("digits").pretrained
    assert "can't be written" in caplog.text


def test_file_name_follows_the_recipe(monkeypatch):
    before = digits.cache_file().name
    monkeypatch.setitem(digits.RECIPE, "epochs", 1)
    assert digits.cache_file().name != before


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_cached_weights_are_no_more_private_than_other_files(cache):
    zoo.load("digits")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(digits.cache_file().stat().st_mode) == 0o666 & ~umask
