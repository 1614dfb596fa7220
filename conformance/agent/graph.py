"""The graph of a run: claims of the answer, turns with their reasoning, and the results.

An edge leads from what was said to what it was said on: claim -> result that it cites or whose
words it has, claim -> last turn, turn -> results it read, cites in a call or thinks of, result ->
turn that asked for it. So the graph is acyclic, and from each claim a path leads to a tool result.
That is support by occurrence, not truth; reasoning is kept beside its turn, unverified.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.agent.messages import reasoning_of
from conformance.agent.toolbox import ref_of
from conformance.agent.trace import Trace, Turn

REF = re.compile(r"\br\d+\b")
WORD = re.compile(r"[0-9a-f]{6,}|\d+")


@dataclass
class Graph:
    """Nodes by id with their text, and edges (from, to, why)."""

    nodes: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    reasoning: dict[str, str] = field(default_factory=dict)  # of turns

    def as_dict(self) -> dict[str, Any]:
        nodes = [
            {"id": key, "text": text}
            | ({"unverified_reasoning": self.reasoning[key]} if key in self.reasoning else {})
            for key, text in self.nodes.items()
        ]
        return {
            "nodes": nodes,
            "edges": [dict(zip(("from", "to", "why"), e, strict=True)) for e in self.edges],
        }

    def mermaid(self) -> str:
        """Render for Mermaid."""
        nodes = [f'  {key}["{_label(text)}"]' for key, text in self.nodes.items()]
        edges = [f"  {a} -->|{why}| {b}" for a, b, why in self.edges]
        return "\n".join(["flowchart RL", *nodes, *edges]) + "\n"

    def reached(self, start: str) -> set[str]:
        """List what a node rests on, directly or not."""
        found: set[str] = set()
        waiting = [start]
        while waiting:
            node = waiting.pop()
            fresh = {b for a, b, _ in self.edges if a == node} - found
            found |= fresh
            waiting += fresh
        return found


def of(trace: Trace, *, withhold_reasoning: bool = False) -> Graph:
    """Build the graph of a trace."""
    graph = Graph()
    results: dict[str, str] = {}
    unread: list[str] = []
    for turn in trace.turns:
        node = f"t{turn.number}"
        graph.nodes[node] = ", ".join(call.name for call in turn.calls) or "answer"
        graph.edges += [(node, result, "read") for result in unread]
        graph.edges += [(node, ref, "cites") for ref in _cited(turn) if ref in results]
        thought = "" if withhold_reasoning else reasoning_of(turn.message) or ""
        if thought:
            graph.reasoning[node] = thought
            thought_of = sorted(set(REF.findall(thought)) & set(results))
            graph.edges += [(node, ref, "thinks of") for ref in thought_of]
        unread = []
        for name, text in _results(turn, len(results)):
            graph.nodes[name], results[name] = text, text
            graph.edges.append((name, node, "asked by"))
            unread.append(name)
    if trace.turns and not trace.turns[-1].calls:
        _add_claims(graph, trace.turns[-1], results)
    return graph


def _results(turn: Turn, before: int) -> Iterator[tuple[str, str]]:
    for offset, text in enumerate(turn.texts):
        yield ref_of(text) or f"o{before + offset + 1}", text


def _cited(turn: Turn) -> list[str]:
    return sorted({r for call in turn.calls for r in re.findall(r'"(r\d+)"', call.arguments)})


def _add_claims(graph: Graph, last: Turn, results: dict[str, str]) -> None:
    for number, line in enumerate(filter(str.strip, last.message["content"].splitlines()), 1):
        claim = f"c{number}"
        graph.nodes[claim] = line
        graph.edges.append((claim, f"t{last.number}", "said in"))
        cited = sorted(set(REF.findall(line)) & set(results))
        graph.edges += [(claim, ref, "cites") for ref in cited]
        words = set(WORD.findall(line))
        for name, text in results.items():
            if words & set(WORD.findall(text)):
                graph.edges.append((claim, name, "occurs in"))


def _label(text: str) -> str:
    short = text.splitlines()[0][:40] if text else ""
    return short.replace('"', "'").replace("[", "(").replace("]", ")")
