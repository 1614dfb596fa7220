"""Routing probes: requests that exactly one tool can serve.

They measure two things. With a model behind an endpoint: does it choose the tool (D14). With the
simulated router, which knows nothing but words: do the descriptions tell the tools apart (S1).
Only probes whose tool is offered count.
"""

from collections.abc import Sequence
from typing import NamedTuple

from conformance.agent.messages import Model, Request, wire_function
from conformance.agent.toolbox import Tool


class Probe(NamedTuple):
    """One request and the only tool that can serve it."""

    request: str
    tool: str


PROBES = (
    Probe("Search the corpus: which documents are about the harbour strike of 1911?", "search"),
    Probe("Open document doc12, found by the search, and read lines 40 to 80 of it.", "open"),
    Probe("Find where the regex ERROR matches inside the earlier result r17.", "find"),
    Probe("Look up the curated fact pi_2024.gdp with its value, unit and date.", "facts"),
    Probe("Run a Python program that prints the 200th Fibonacci number.", "python"),
    Probe("Read the text file plan.txt of the workspace with its line numbers.", "read_file"),
    Probe("Create a text file draft.txt, or replace it if there is one.", "write_file"),
    Probe(
        "Edit the file style.css: the exact text colour becomes hue; return the diff.", "edit_file"
    ),
    Probe("List all workspace files with their sizes.", "list_files"),
    Probe("Search file contents for lines that match the regex TODO, as path:line.", "grep"),
    Probe("List classes and functions of the Python file app.py with line spans.", "code_outline"),
    Probe("Rename the method Cls.old in the syntax tree, with all its references.", "refactor"),
    Probe("Run pytest in the sandbox and report the failure of each test.", "run_tests"),
    Probe("Check a draft sentence by sentence: does every citation support it?", "check_citations"),
    Probe("Is this propositional formula a tautology? Exact mathematics.", "math_check"),
    Probe("Keep the plan outside the context as a note that survives restarts.", "notes"),
    Probe("List my earlier tool calls, newest first, with status and size.", "history"),
    Probe("Draw a bar chart as SVG from these columns of numbers.", "chart"),
)


class Routed(NamedTuple):
    """One probe and the tool that was chosen, "" for none."""

    probe: Probe
    chosen: str

    @property
    def right(self) -> bool:
        return self.chosen == self.probe.tool


def route(model: Model, tools: Sequence[Tool]) -> list[Routed]:
    """Put every probe whose tool is offered to a model: model, tools -> choices."""
    offered = {tool.name for tool in tools}
    declared = tuple(wire_function(t.name, t.description, t.schema) for t in tools)
    routed = []
    for probe in PROBES:
        if probe.tool in offered:
            reply = model(Request(({"role": "user", "content": probe.request},), declared))
            chosen = reply.calls[0].name if reply.calls else ""
            routed.append(Routed(probe, chosen))
    return routed
