"""How an engine's address is written: a path first, then options, all separated by commas."""

from k2ref.errors import InputError


def split_address(address: str, defaults: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Split `DIR,key=value`: address, options with their defaults -> path, options.

    Raises:
        InputError: an option that does not exist.
    """
    path, *assignments = address.split(",")
    if "=" in path:
        path, assignments = "", [path, *assignments]
    options = dict(defaults)
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if key not in defaults:
            raise InputError(f"no option {key!r}; the options are {', '.join(defaults)}")
        options[key] = value
    return path, options
