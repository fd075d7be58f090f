"""Inspects traced TensorFlow functions."""

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef


def operations(graph: GraphDef) -> list[NodeDef]:
    """Returns the operations of a graph and of the functions that it calls."""
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
