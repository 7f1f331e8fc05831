"""Outputs of any nesting: their heads, changed tensors, and tensors taken out and put back."""

import pickle
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from evoq_moo.difference import heads_of, map_tensors, skeleton
from evoq_moo.errors import ArgumentError, NetworkError

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    name: str = "a"
    twice: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.x)


@dataclass(slots=True)
class Slots:
    x: Tensor
    none: None = None


class Items(OrderedDict[str, Any]):
    """An ordered dict whose items are attributes as well, as outputs of the transformers library are."""

    def __post_init__(self) -> None:
        for key in self.__dataclass_fields__:
            if getattr(self, key) is not None:
                OrderedDict.__setitem__(self, key, getattr(self, key))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("no update")

    def __reduce__(self) -> Any:
        make, _, *rest = super().__reduce__()
        return make, tuple(getattr(self, key) for key in self.__dataclass_fields__), *rest


@dataclass
class ModelOutput(Items):
    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None


def tensor(value, dtype=torch.float32):
    return torch.full((2, 3), value, dtype=dtype)


OUTPUTS = {
    "tensor": (tensor(1), [1]),
    "nested": ({"x": (tensor(1), [tensor(2)]), "n": None, "s": "text"}, [1, 2]),
    "integers": ([tensor(1), tensor(7, torch.int64)], [1]),
    "namedtuple": (Pair(tensor(1), {"a": tensor(2)}), [1, 2]),
    "return type": (torch.max(tensor(3), dim=1), [3]),
    "ordered": (OrderedDict(b=tensor(1), a=tensor(2)), [1, 2]),
    "default": (defaultdict(list, {"b": tensor(1), "a": [tensor(2)]}), [1, 2]),
    "proxy": (MappingProxyType({"a": tensor(1)}), [1]),
    "frozen": (Frozen(tensor(1)), [1, 2]),
    "slots": ([Slots(tensor(1)), Slots(tensor(2))], [1, 2]),
    "model output": (ModelOutput(tensor(1), hidden=(tensor(2), tensor(3))), [1, 2, 3]),
    "model output of one": (ModelOutput(tensor(1)), [1]),
    "packed": (torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]), [1]),
}


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_outputs_of_any_nesting(name):
    output, values = OUTPUTS[name]
    heads = heads_of(output)
    assert [head.flatten()[0] for head in heads] == values
    changed = map_tensors(output, lambda t: t + 10)
    assert type(changed) is type(output)
    assert [head.flatten()[0] for head in heads_of(changed)] == [value + 10 for value in values]
    assert [head.flatten()[0] for head in heads_of(output)] == values  # not changed
    if isinstance(output, Mapping):
        assert list(changed) == list(output)

    leaves, rebuild = skeleton(output)
    if name != "proxy":  # which pickle doesn't take
        rebuild = pickle.loads(pickle.dumps(rebuild))
    for factor in (1, 3):
        again = rebuild([factor * leaf for leaf in leaves])
        assert type(again) is type(output)
        assert [head.flatten()[0] for head in heads_of(again)] == [factor * value for value in values]
        assert [leaf.dtype for leaf in skeleton(again)[0]] == [leaf.dtype for leaf in leaves]
    with pytest.raises(ArgumentError, match=f"tensors: given {len(leaves) + 1}; allowed: {len(leaves)}"):
        rebuild([*leaves, leaves[0]])


def test_attributes_of_a_model_output_follow_its_items():
    changed = map_tensors(ModelOutput(tensor(1), hidden=(tensor(2),)), lambda t: t + 10)
    assert changed.logits is changed["logits"]
    assert changed.hidden[0][0, 0] == 12
    assert changed.loss is None
    assert list(changed) == ["logits", "hidden"]


def test_what_is_not_a_tensor_stays_itself():
    label = object()
    changed = map_tensors({"label": label, "x": [tensor(1), None]}, lambda t: t)
    assert changed["label"] is label
    assert changed["x"][1] is None


def test_outputs_without_heads_are_refused():
    for output in ({"labels": tensor(1, torch.int64)}, None, [], 3, Frozen):
        with pytest.raises(NetworkError, match="no floating-point tensor"):
            heads_of(output)
