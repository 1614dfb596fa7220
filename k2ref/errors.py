"""The one exception for what a user can put right: a file, a value, an argument."""


class InputError(ValueError):
    """What was wanted, what came, and the way out. The command line prints it and exits with 2."""
