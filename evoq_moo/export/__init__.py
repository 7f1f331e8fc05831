"""Shipping a chosen network: ONNX files and what checks them."""

from evoq_moo.export._bits import read_bits, write_bits
from evoq_moo.export._exact import EXACT, check_form, exact_network
from evoq_moo.export._levels import Disagreement, LevelReport
from evoq_moo.export._load import load, load_calibrated
from evoq_moo.export._module import OnnxNetwork
from evoq_moo.export._onnx import ExportedFile, export_onnx
from evoq_moo.export._profile import Profile, SumCheck, profile_latency
from evoq_moo.export._program import export_program
from evoq_moo.export._qonnx import export_qonnx
from evoq_moo.export._read import OnnxFile, OnnxLayer, read_onnx
from evoq_moo.export._session import open_session
from evoq_moo.export._template import Template, check_packages, make_template
from evoq_moo.export._verify import Latency, Verification, verify_onnx

__all__ = [
    "EXACT",
    "Disagreement",
    "ExportedFile",
    "Latency",
    "LevelReport",
    "OnnxFile",
    "OnnxLayer",
    "OnnxNetwork",
    "Profile",
    "SumCheck",
    "Template",
    "Verification",
    "check_form",
    "check_packages",
    "exact_network",
    "export_onnx",
    "export_program",
    "export_qonnx",
    "load",
    "load_calibrated",
    "make_template",
    "open_session",
    "profile_latency",
    "read_bits",
    "read_onnx",
    "verify_onnx",
    "write_bits",
]
