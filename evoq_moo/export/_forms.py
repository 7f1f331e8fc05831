"""The forms of an ONNX file: a registry. Each says how layers are written and what network computes the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from evoq_moo.errors import check_name
from evoq_moo.export._exact import EXACT, QDQ, exact_network
from evoq_moo.export._int8 import int8_plans, write_int8
from evoq_moo.export._job import Choice, Job
from evoq_moo.export._lower import reference_plans, write_reference
from evoq_moo.export._products import LayerPlan

INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a network is written.

    Attributes:
        name: What users call it.
        integer: Whether runtimes shall run it in integer kernels.
        plans: Returns how each layer is written.
        write: Writes the nodes.
        network: Returns, of the quantized network, what computes the same in torch.
        why: What it is for, in words.
    """

    name: str
    integer: bool
    plans: Callable[[Choice], Sequence[LayerPlan]]
    write: Callable[[Job], None]
    network: Callable[[nn.Module], nn.Module]
    why: str


FORMS = {
    form.name: form
    for form in (
        Form(
            name=INT8,
            integer=True,
            plans=int8_plans,
            write=write_int8,
            network=lambda network: network,
            why="runs in the integer kernels of a runtime",
        ),
        Form(
            name=EXACT,
            integer=False,
            plans=partial(reference_plans, EXACT),
            write=partial(write_reference, EXACT),
            network=exact_network,
            why="a reference: the same bits in every runtime, slow",
        ),
        Form(
            name=QDQ,
            integer=False,
            plans=partial(reference_plans, QDQ),
            write=partial(write_reference, QDQ),
            network=lambda network: network,
            why="a reference: the usual pattern around float products, slow",
        ),
    )
}
"""By name."""


def form_of(name: str) -> Form:
    """Return a form.

    Raises:
        ArgumentError: There is none of that name.
    """
    check_name("form", name, tuple(FORMS))
    return FORMS[name]
