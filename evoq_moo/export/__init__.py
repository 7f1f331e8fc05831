"""Shipping a chosen network: ONNX files and what checks them."""

from evoq_moo.export._bits import read_bits, write_bits
from evoq_moo.export._exact import exact_network
from evoq_moo.export._floating import float_model, static_model
from evoq_moo.export._forms import FORMS, INT8, Form, form_of
from evoq_moo.export._integer import saturates
from evoq_moo.export._levels import Disagreement, LevelReport
from evoq_moo.export._load import load, load_calibrated
from evoq_moo.export._network import OnnxNetwork
from evoq_moo.export._onnx import ExportedFile, export_onnx
from evoq_moo.export._profile import Profile, SumCheck, profile_latency
from evoq_moo.export._program import export_program
from evoq_moo.export._qonnx import export_qonnx
from evoq_moo.export._read import OnnxFile, OnnxLayer, read_onnx
from evoq_moo.export._session import open_session
from evoq_moo.export._target import DEFAULT_TARGET, TARGETS, Target, target_of
from evoq_moo.export._template import Template, check_packages, make_template
from evoq_moo.export._verify import Fused, Latency, Verification, verify_onnx

__all__ = [
    "DEFAULT_TARGET",
    "FORMS",
    "INT8",
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
    "check_packages",
    "exact_network",
    "export_onnx",
    "export_program",
    "export_qonnx",
    "float_model",
    "form_of",
    "load",
    "load_calibrated",
    "make_template",
    "open_session",
    "profile_latency",
    "read_bits",
    "read_onnx",
    "saturates",
    "static_model",
    "target_of",
    "verify_onnx",
    "write_bits",
]
