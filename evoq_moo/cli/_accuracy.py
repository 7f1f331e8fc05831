"""How commands print accuracies."""

from collections.abc import Mapping

from rich.table import Table

from evoq_moo.accuracy import Accuracy
from evoq_moo.cli._console import console


def print_accuracy(networks: Mapping[str, Accuracy]) -> None:
    """Print the accuracies of networks, by name."""
    table = Table("network", "images", "top-1 (%)", "top-5 (%)", "agreement with float (%)")
    for name, found in networks.items():
        columns = [found.top1, found.top5, found.agreement]
        table.add_row(name, str(found.count), *("-" if v is None else f"{100 * v:.2f}" for v in columns))
    console.print(table)
