"""Every small network is either refused for its reason or the same at every stage."""

import pytest

from tests.graph.cases import CASES
from tests.graph.stages import Options, examine

STAGES = ("outputs", "share", "float_policy", "repeatable", "engines", "apply", "twin", "pickled")
LONG_STAGES = ("calibrate", "export")


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    report = examine(case, Options(stages=STAGES if case.alike else STAGES + LONG_STAGES))
    if report.problems:
        pytest.fail(str(report), pytrace=False)
