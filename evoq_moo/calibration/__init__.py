"""Calibration: the chosen solution, made better with the same unlabelled samples.

The last step of the EvoQ abstract ("the outputs and intermediate features are calibrated with the 50 samples"), whose
details it leaves open: every choice here is ours, or that of the paper named beside it.
"""

from evoq_moo.calibration._calibrate import calibrate
from evoq_moo.calibration._in_loop import IN_LOOP, CalibratingNetwork, CalibratingRecipe
from evoq_moo.calibration._layer_errors import layer_errors
from evoq_moo.calibration._network import CALIBRATED_FORMAT, CALIBRATED_VERSION, CalibratedNetwork, map_heads
from evoq_moo.calibration._outputs import OutputMap
from evoq_moo.calibration._report import CalibrationReport, StepReport
from evoq_moo.calibration._steps import FULL, LIGHT, PRESETS, STEPS, check_steps

__all__ = [
    "CALIBRATED_FORMAT",
    "CALIBRATED_VERSION",
    "FULL",
    "IN_LOOP",
    "LIGHT",
    "PRESETS",
    "STEPS",
    "CalibratedNetwork",
    "CalibratingNetwork",
    "CalibratingRecipe",
    "CalibrationReport",
    "OutputMap",
    "StepReport",
    "calibrate",
    "check_steps",
    "layer_errors",
    "map_heads",
]
