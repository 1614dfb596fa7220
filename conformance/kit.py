"""The packages of the extra `kit`: k2conf starts without them and says what needs one."""

from importlib.util import find_spec

from k2ref.errors import InputError


def has(package: str) -> bool:
    """Tell whether a package is installed: its import name -> bool."""
    return find_spec(package) is not None


def need(package: str, what: str) -> None:
    """Require a package: its import name, what needs it. Raises InputError where it is missing."""
    if not has(package):
        raise InputError(f"{what} need {package}: python -m pip install 'k2ref[kit]'")
