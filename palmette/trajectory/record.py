"""Trees as rows of plain columns, and back, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from palmette.trajectory.node import Node
from palmette.trajectory.tree import Tree


def pack(tree: Tree) -> dict[str, Any]:
    """Return the columns of one tree.

    `node_id, parent, length, turn` _N in the order of `tree.nodes()`; `token_ids, logprob, version` _T are the nodes'
    arrays one behind the other; `arrays` is a list of {name, dtype, tail, rows, data}: `rows` are the indices (into _N)
    of the nodes that hold the name, `data` their values as bytes, `tail` the shape of one token's value.
    """
    order = tree.nodes()
    nodes = [tree.node(identity) for identity in order]
    return {
        "node_id": np.array(order, np.int32),
        "parent": np.array([node.parent for node in nodes], np.int32),
        "length": np.array([len(node) for node in nodes], np.int32),
        "turn": np.array([node.turn for node in nodes], np.int32),
        "token_ids": np.concatenate([np.zeros(0, np.int32), *(node.token_ids for node in nodes)]),
        "logprob": np.concatenate([np.zeros(0, np.float32), *(node.logprob for node in nodes)]),
        "version": np.concatenate([np.zeros(0, np.int32), *(node.version for node in nodes)]),
        "arrays": [_pack_array(name, nodes) for name in tree.names],
    }


def unpack(columns: Mapping[str, Any]) -> Tree:
    """Return the tree that `pack` took apart. Raises `ValueError` when the columns contradict each other."""
    lengths_N = columns["length"]
    ends_N = np.cumsum(lengths_N)
    if any(len(columns[name]) != lengths_N.sum() for name in ("token_ids", "logprob", "version")):
        raise ValueError("the token columns differ in length from their nodes")
    nodes = [
        Node(
            parent=int(parent),
            start=0,  # restore() knows
            turn=int(turn),
            token_ids=columns["token_ids"][end - length : end],
            logprob=columns["logprob"][end - length : end],
            version=columns["version"][end - length : end],
        )
        for parent, turn, length, end in zip(columns["parent"], columns["turn"], lengths_N, ends_N, strict=True)
    ]
    for packed in columns["arrays"]:
        _unpack_array(packed, nodes)
    return Tree.restore(zip(map(int, columns["node_id"]), nodes, strict=True))


def _pack_array(name: str, nodes: list[Node]) -> dict[str, Any]:
    rows = [row for row, node in enumerate(nodes) if name in node.arrays]
    first = nodes[rows[0]].arrays[name]
    return {
        "name": name,
        "dtype": first.dtype.str,  # with its byte order
        "tail": list(first.shape[1:]),
        "rows": rows,
        "data": b"".join(nodes[row].arrays[name].tobytes() for row in rows),
    }


def _unpack_array(packed: Mapping[str, Any], nodes: list[Node]) -> None:
    values_T = np.frombuffer(packed["data"], np.dtype(packed["dtype"])).copy()
    values_T = values_T.reshape(sum(len(nodes[row]) for row in packed["rows"]), *packed["tail"])
    start = 0
    for row in packed["rows"]:
        nodes[row].arrays[packed["name"]] = values_T[start : start + len(nodes[row])]
        start += len(nodes[row])
