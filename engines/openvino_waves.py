"""The waves of the timestep, which OpenVINO in bf16 would compute too coarsely, taken out of a model."""

from __future__ import annotations

from .openvino_library import opset13, ov

CUT = 1  # raise it whenever `cut_waves` gives another model than before: it is in the keys of what it went into
_WAVES = {"Sin", "Cos"}
_NETWORK = {"Convolution", "MatMul"}  # waves of what a network computed are the network's own


def cut_waves(model: ov.Model) -> ov.Model | None:
    """Take the sines and cosines of the timestep out of a model; gives the model of them, whose outputs it then takes.

    Told to compute in bf16, OpenVINO rounds the angle: above 256 to whole even numbers. PyTorch computes the
    timestep's waves in fp32 whatever the rest is in. A full-size UNet is 0.015 from it so, and 0.071 without.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in _WAVES]
    before = {name: kind for node in nodes for name, kind in _ancestors(node).items()}
    if not nodes or set(before.values()) & _NETWORK:
        return None
    fed = []
    for index, node in enumerate(nodes):
        outside = opset13.parameter(node.get_output_partial_shape(0), ov.Type.f32)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(outside.output(0))
        for port in (node.output(0), outside.output(0)):
            port.get_tensor().set_names({f"wave{index}"})
        fed.append(outside)
    needed = [source for source in model.get_parameters() if source.get_friendly_name() in before]
    model.add_parameters(fed)
    for source in needed:
        users = [target.get_node().get_friendly_name() for target in source.output(0).get_target_inputs()]
        if all(user in before for user in users):
            model.remove_parameter(source)
    model.validate_nodes_and_infer_types()
    return ov.Model([opset13.result(node.output(0)) for node in nodes], needed, "waves")


def _ancestors(node: ov.Node) -> dict[str, str]:
    """Type by name of a node and all that it is computed from."""
    found: dict[str, str] = {}
    open_nodes = [node]
    while open_nodes:
        one = open_nodes.pop()
        if one.get_friendly_name() not in found:
            found[one.get_friendly_name()] = one.get_type_name()
            open_nodes += [port.get_source_output().get_node() for port in one.inputs()]
    return found
