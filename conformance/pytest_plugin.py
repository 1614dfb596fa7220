"""The cases of `k2conf run` as pytest tests: `pytest --k2-engine ADDRESS`.

One test per case of an operation, one for each level that runs a whole model. What an engine does
not offer is skipped with its reason, a known failure is an expected one, and a known failure that
passes fails as stale.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GROUP = "Kimi K2 conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("k2conf", GROUP)
    group.addoption("--k2-engine", metavar="ADDRESS", help="module:NAME, stdio:COMMAND, hf:DIR, …")
    group.addoption("--k2-precision", metavar="NAME", help="declared precision of the engine")
    group.addoption("--k2-known", metavar="FILE", help="known failures, as of k2conf run --known")
    group.addoption("--k2-seed", type=int, default=0, help="of the inputs; 0 are the frozen ones")


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add a test per case where an engine was named."""
    if config.getoption("--k2-engine"):
        items.extend(_items(session, config))


def _items(session: pytest.Session, config: pytest.Config) -> Iterator[pytest.Item]:
    from conformance.baseline import load_baseline
    from conformance.cases import all_cases
    from conformance.checks.operations import check_case
    from conformance.compare import find_precision
    from conformance.engine import open_engine
    from conformance.suite import MODEL_LEVELS, Plan, checks

    engine = open_engine(
        config.getoption("--k2-engine"), precision=config.getoption("--k2-precision")
    )
    config.add_cleanup(engine.close)
    known_path, seed = config.getoption("--k2-known"), config.getoption("--k2-seed")
    known = load_baseline(Path(known_path)) if known_path else []
    precision = find_precision(engine.info.precision)
    collector = _Cases.from_parent(session, name=f"k2conf[{engine.info.name}]")

    def model(level: str) -> list[Any]:
        return [r for r in checks(engine, Plan(frozenset({level}), seed=seed), seed) if r]

    for case in all_cases(seed):
        judge = lambda case=case: [check_case(engine, case, precision)]  # noqa: E731
        yield _Case.from_parent(collector, name=case.id, judge=judge, known=known)
    for level in sorted(MODEL_LEVELS):
        yield _Case.from_parent(
            collector, name=level, judge=lambda level=level: model(level), known=known
        )


class _Cases(pytest.Collector):
    """Where the cases hang in the tree."""

    def collect(self) -> list[pytest.Item]:
        return []


class _Case(pytest.Item):
    """One case, or one level of whole-model checks."""

    def __init__(self, *, judge: Callable[[], list[Any]], known: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._judge, self._known = judge, known

    def runtest(self) -> None:
        """Judge, and speak in pytest's words."""
        results = self._judge()
        wrong = [r for r in results if r.verdict.failed or r.verdict.value == "harness_error"]
        covered = [k for k in self._known if any(k.covers(r) for r in results)]
        unknown = [r for r in wrong if not any(k.covers(r) for k in self._known)]
        if unknown:
            raise _Wrong("\n".join(f"{r.case}: {r.verdict.value}: {r.message}" for r in unknown))
        if wrong:
            pytest.xfail("; ".join(k.reason for k in covered))
        if covered and not wrong:
            raise _Wrong(f"{covered[0].case}: listed as failing, and passes")
        if results and all(r.verdict.value in ("skipped", "inconclusive") for r in results):
            pytest.skip(results[0].message)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show the message without a traceback of the kit."""
        if isinstance(excinfo.value, _Wrong):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say where a case is: its own name, as no file holds it."""
        return self.path, None, f"k2conf: {self.name}"


class _Wrong(Exception):
    """A case that the engine fails."""
