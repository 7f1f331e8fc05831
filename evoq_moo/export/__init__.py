"""Shipping a chosen network: ONNX files and what checks them."""

from evoq_moo.export._bits import read_bits, write_bits
from evoq_moo.export._exact import exact_network
from evoq_moo.export._floating import float_model, static_model
from evoq_moo.export._forms import FORMS, Form
from evoq_moo.export._integer import saturates
from evoq_moo.export._levels import Disagreement, LevelReport
from evoq_moo.export._load import load_calibrated
from evoq_moo.export._network import OnnxNetwork
from evoq_moo.export._onnx import ExportedFile, export_onnx
from evoq_moo.export._profile import Profile, SumCheck, profile_latency
from evoq_moo.export._program import export_program
from evoq_moo.export._qonnx import export_qonnx
from evoq_moo.export._read import OnnxFile, OnnxLayer, read_onnx
from evoq_moo.export._session import open_session
from evoq_moo.export._target import TARGETS, Target
from evoq_moo.export._template import Template, make_template
from evoq_moo.export._verify import Fused, Latency, Verification, verify_onnx

__all__ = [
    "FORMS",
    "TARGETS",
    "Disagreement",
    "ExportedFile",
    "Form",
    "Fused",
    "Latency",
    "LevelReport",
    "OnnxFile",
    "OnnxLayer",
    "OnnxNetwork",
    "Profile",
    "SumCheck",
    "Target",
    "Template",
    "Verification",
    "exact_network",
    "export_onnx",
    "export_program",
    "export_qonnx",
    "float_model",
    "load_calibrated",
    "make_template",
    "open_session",
    "profile_latency",
    "read_bits",
    "read_onnx",
    "saturates",
    "static_model",
    "verify_onnx",
    "write_bits",
]
