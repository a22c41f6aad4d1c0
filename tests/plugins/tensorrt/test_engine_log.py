"""The builder's message about a finished engine as layers and tensors."""

from __future__ import annotations

import pytest

from raggedrt.plugins.tensorrt.engine_log import is_engine_text, layers_of, tensors_of

pytestmark = pytest.mark.none
FORM = "Format: (Linear) Row major linear format"
TEXT = f"""Layers:
Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ {{ Name: v16, Location: Device, \
Dimensions: [1], Datatype: Int64, Format: Format not available due to dynamic shapes }}], shapeValues4: [0, -17], \
StreamId: 0, Metadata:
Name: a+b_myl1_1, LayerType: gemm, Inputs: [ {{ Name: x, Dimensions: [-1,768], Strides: [768,1], Datatype: Half, \
{FORM} }}, {{ Name: y, Dimensions: [], Strides: [], Datatype: Float, {FORM} }}], Constants: [ {{ Name: c, \
Dimensions: [768,2304], Datatype: Half, {FORM} }}], Outputs: [ {{ Name: z, Dimensions: [-1,2304], Datatype: Half, \
{FORM} }}], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b, c]

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [-1,768], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ {{ MinShape: [1,768], OptShape: [7,768], MaxShape: [36,768], Format: Row major (kLINEAR) }}, \
{{ MinShape: [2,768], OptShape: [8,768], MaxShape: [37,768], Format: Row major (kLINEAR) }}]
 Name: z, IOMode: Output, DataType: Half, Dimensions: [-1,2304], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ {{ Format: Row major (kLINEAR) }}]

Engine Metadata:
 Multi-Device: Disabled
"""


def test_the_message_is_told_from_others() -> None:
    assert is_engine_text(TEXT)
    assert not is_engine_text("Layers: 7")
    assert not is_engine_text("I/O Tensors:")


def test_layers_have_the_keys_of_the_inspector() -> None:
    shapes, product = layers_of(TEXT)
    assert shapes["Name"] == "[ShapeHostToDeviceCopy 0]"
    assert shapes["Inputs"] == []
    assert shapes["Outputs"] == [{"Name": "v16", "Dimensions": (1,), "Format/Datatype": "Int64"}]
    assert product == {
        "Name": "a+b_myl1_1",
        "LayerType": "gemm",
        "Inputs": [
            {"Name": "x", "Dimensions": (-1, 768), "Format/Datatype": "Half"},
            {"Name": "y", "Dimensions": (), "Format/Datatype": "Float"},
        ],
        "Outputs": [{"Name": "z", "Dimensions": (-1, 2304), "Format/Datatype": "Half"}],
        "TacticName": "stub",
        "Metadata": "[ONNX Layer: a][ONNX Layer: b, c]",
    }


def test_inputs_have_their_bounds_by_profile() -> None:
    given, made = tensors_of(TEXT)
    assert given["Profiles"] == [((1, 768), (7, 768), (36, 768)), ((2, 768), (8, 768), (37, 768))]
    assert (given["Name"], given["IOMode"], given["Dimensions"], given["Datatype"]) == ("x", "Input", (-1, 768), "Half")
    assert made["Profiles"] == []
    assert made["IOMode"] == "Output"


def test_a_text_of_another_form_gives_what_can_be_read() -> None:
    assert layers_of("Layers:\nName: odd\n") == [
        {"Name": "odd", "LayerType": "", "Inputs": [], "Outputs": [], "TacticName": "", "Metadata": ""}
    ]
    assert tensors_of("Layers:\n") == []
