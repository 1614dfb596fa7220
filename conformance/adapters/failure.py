"""How an engine fails: as a result of that engine, never as a crash of the kit."""


class EngineError(Exception):
    """The engine died, hung, answered nonsense, or said that it failed."""


class NotOffered(Exception):
    """The engine says that it does not have this; a skip, not a failure."""
