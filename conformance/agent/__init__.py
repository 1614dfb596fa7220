"""Long tool runs (L7): a driver, generated tasks, and verdicts that no model gives.

Three subjects share one kit: a tool server (`server_checks`), an agent client (`client_checks`,
against the strict endpoint of `mock`), and an endpoint (`python -m conformance.agent run`).
"""
