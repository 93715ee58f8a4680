"""Evidence in numbers: what two models' logits differ by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier import checks, proof


def logits(*rows: list[float]) -> proof.Logits:
    return np.asarray(rows, dtype=np.float32)


def test_relative_difference_is_the_largest_over_the_largest() -> None:
    assert proof.relative_difference(logits([1, 2], [3, -5]), logits([1, 2], [3, -4])) == 0.25


@pytest.mark.filterwarnings("error")
def test_a_collapsed_model_is_compared_without_a_word_from_numpy() -> None:
    zero, one, huge = logits([0, 0]), logits([0, 1]), logits([0, math.inf])
    assert proof.relative_difference(zero, zero) == 0
    assert proof.relative_difference(one, zero) == math.inf
    assert proof.relative_difference(zero, one) == 1
    assert proof.relative_difference(huge, huge) == 0
    assert math.isnan(proof.relative_difference(huge, logits([1, math.inf])))


@pytest.mark.parametrize(
    ("reloaded", "status"), [([0.0, 0.0], "pass"), ([0.0, 1.0], "fail"), ([0.0, math.nan], "fail")]
)
def test_the_check_of_a_collapsed_model_tells_its_files_apart(reloaded: list[float], status: str) -> None:
    probe = proof.Probe([[1]], logits([1, 2]), logits([0, 0]))
    assert checks.reload(probe, logits(reloaded)).status == status
