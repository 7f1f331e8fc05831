"""One policy on the terminal, layer by layer."""

from evoq_moo.accuracy import as_percent
from evoq_moo.cli._console import console
from evoq_moo.costs import cost_class
from evoq_moo.front import ParetoFront
from evoq_moo.space import Policy


def print_policy(front: ParetoFront, policy: Policy) -> None:
    """Print what a policy of a front costs and changes, and its bit-widths."""
    point = front.point_of(policy)
    said = [f"difference {point.difference:.4g}"]
    said += [f"{name} {value:.4g} {cost_class(name).unit}" for name, value in point.costs.items()]
    found = front.curve.of(policy) if front.curve is not None else None
    if front.curve is not None and found is not None:
        after = " after calibration" if found.calibration else ""
        said.append(f"{front.curve.measure} {as_percent(found.accuracy)} %{after}")
    console.print(", ".join(said))
    if point.expected is not None:
        console.print(f"expected on new images: {point.expected}")
    console.print(policy.table())
