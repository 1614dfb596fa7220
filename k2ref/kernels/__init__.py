"""Numba kernels with the names and arguments of `k2ref.oracle`."""
