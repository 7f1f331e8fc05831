"""What `evoq evaluate` does with images that have no labels."""

from pathlib import Path

from rich.table import Table

from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.cli._console import console
from evoq_moo.cli._tables import TableForm, emit
from evoq_moo.difference import FEWEST
from evoq_moo.errors import ImageError
from evoq_moo.evaluation import NewImages
from evoq_moo.front import FrontPoint
from evoq_moo.images import ImageSource, Preprocess
from evoq_moo.network import QuantizedNetwork


def print_difference(
    network: QuantizedNetwork | CalibratingNetwork,
    point: FrontPoint,
    images: str | Path,
    preprocess: Preprocess,
    limit: int | None,
    form: TableForm,
) -> None:
    """Print the difference of a policy on images that its search did not see, and its ratio to that on the samples.

    Raises:
        ImageError: There are none.
        ArgumentError: All are samples of the search.
        EvoqError: They can't be read, or the network can't run on them.
    """
    source = ImageSource(images)
    number = min(len(source), limit or len(source))
    if not number:
        raise ImageError(f"{source.origin}: given no images; needs at least 1")
    new = NewImages(network, source.batch(range(number), preprocess))
    if new.left_out:
        console.print(f"{new.left_out} of {number} images are samples of the search: left out", style="yellow")
    found = new.measure(point.policy)
    metric = network.metric
    table = Table("images", f"difference ({metric})", "interval of 90 %", *found.others)
    rows = [("expected of new ones", point.expected)] if point.expected is not None else []
    table.add_row("samples of the search", f"{point.difference:.4g}", "", *("" for _ in found.others))
    for name, measured in [*rows, (f"{number - new.left_out} others", found)]:
        interval = "" if measured.low is None else f"{measured.low:.4g} to {measured.high:.4g}"
        others = (f"{measured.others[other]:.4g}" if other in measured.others else "" for other in found.others)
        table.add_row(name, f"{measured.difference:.4g}", interval, *others)
    emit(table, form)
    if form is not TableForm.TEXT:
        return
    if found.low is None:
        console.print(
            f"no interval: that needs {FEWEST} images and a metric that can judge parts of them", style="yellow"
        )
    if point.difference > 0:
        console.print(f"on other images / on the samples: {found.difference / point.difference:.3g}")
