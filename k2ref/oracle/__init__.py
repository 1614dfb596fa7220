"""The NumPy oracle: pure functions on arrays whose names end in their dimensions."""
