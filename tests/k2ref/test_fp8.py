"""FP8 weights with block scales."""

import ml_dtypes
import numpy as np

from k2ref import oracle

VALUES = np.arange(12.0).reshape(3, 4).astype(ml_dtypes.float8_e4m3fn)
SCALES = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)


def test_blocks_at_the_edges_are_cut_to_the_shape_of_the_weight() -> None:
    w_ML = oracle.fp8_dequantize(VALUES, SCALES, block=(2, 3))
    np.testing.assert_array_equal(w_ML, [[0, 1, 2, 30], [4, 5, 6, 70], [800, 900, 1000, 11000]])


def test_the_product_is_that_of_the_scaled_matrix() -> None:
    x_TL = np.array([[1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(
        oracle.fp8_linear(x_TL, VALUES, SCALES, block=(2, 3)), [[33, 85, 13700]]
    )
