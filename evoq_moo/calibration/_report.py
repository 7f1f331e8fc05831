"""What calibration did: for each step the difference before and after, seen and held out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from evoq_moo._text import html_table
from evoq_moo.files import Amount, Number, Whole, convert, reading


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did.

    Attributes:
        step: Its name.
        outcome: ``"kept"``; ``"no change"``: it found nothing to do; ``"rolled back"``: samples held out got
            rather worse than better by it; ``"no time"``: it did not start.
        before: Difference on all samples before it.
        after: Difference after it, fitted to all samples (what it was before it was rolled back).
        held_out_before: The same by cross-validation: each sample's output is that of a network that was calibrated
            without it, in this step and in all before.
        held_out_after: And after the step.
        seconds: Wall time (s).
        p_value: Of Wilcoxon's signed-rank test, one-sided, that samples held out got better; None where the step did
            not run, and in reports of version 0.1.
    """

    step: str
    outcome: str
    before: Number
    after: Number
    held_out_before: Number
    held_out_after: Number
    seconds: Amount
    p_value: Number | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """What a calibration did.

    Attributes:
        metric: Name of the difference.
        samples: Number of samples.
        folds: Parts of the cross-validation.
        seed: Of the folds and draws.
        steps: The steps in order.
        seconds: Wall time of everything (s).
        mirror: Whether steps were fitted to mirror images too.
    """

    metric: str
    samples: Whole
    folds: Whole
    seed: Whole
    steps: tuple[StepReport, ...]
    seconds: Amount
    mirror: bool = False

    def __repr__(self) -> str:
        said = ", ".join(
            f"{s.step} {s.held_out_before:.3g} -> {s.held_out_after:.3g} ({s.outcome})" for s in self.steps
        )
        return f"CalibrationReport({self.metric} on {self.samples} samples, held out: {said or 'no steps'})"

    def _repr_html_(self) -> str:
        return html_table(self.table())

    def table(self) -> Table:
        """Return the steps as a rich table."""
        table = Table(
            title=f"{self.metric} on {self.samples} samples, held out in {self.folds} parts; {self.seconds:.1f} s"
        )
        for column in ("step", "before", "after", "held out before", "held out after", "seconds", "outcome"):
            table.add_column(column, justify="left" if column in {"step", "outcome"} else "right")
        for s in self.steps:
            values = (s.before, s.after, s.held_out_before, s.held_out_after)
            table.add_row(s.step, *(f"{v:.4g}" for v in values), f"{s.seconds:.1f}", s.outcome)
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready plain data."""
        return {**asdict(self), "steps": [asdict(s) for s in self.steps]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CalibrationReport":
        """Rebuild a report from what :meth:`to_json` gave.

        Raises:
            FormatError: The data is not a report.
        """
        with reading("report: not what CalibrationReport.to_json gives"):
            return convert(data, cls)
