"""Every small network is either refused for its reason or the same at every stage."""

import pytest

from tests.graph.cases import CASES
from tests.graph.stages import Options, examine

STAGES = (
    "outputs",
    "share",
    "float_policy",
    "repeatable",
    "engines",
    "apply",
    "twin",
    "calibrate",
    "export",
    "pickled",
)


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    report = examine(CASES[name], Options(stages=STAGES))
    assert not report.problems, str(report)
