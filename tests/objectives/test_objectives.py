from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hfft.objectives import IGNORED, OBJECTIVES, binary_cross_entropy, mean_squared_error


def case(problem: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that require gradients, and labels in half precision where that is possible."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 1 if problem == "regression" else 3, generator=generator, requires_grad=True)
    labels = {
        "single_label_classification": torch.randint(0, 3, (12,), generator=generator),
        "multi_label_classification": torch.randint(0, 2, (12, 3), generator=generator).float(),
        "regression": torch.randn(12, generator=generator),
    }
    return logits, labels[problem]


@pytest.mark.parametrize("problem", OBJECTIVES)
def test_parts_of_a_step_sum_to_the_mean_over_it(problem: str):
    logits, labels = case(problem)
    objective = OBJECTIVES[problem]
    whole = objective(logits, labels, None, 0.0)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = [(slice(0, 5), 5), (slice(5, 6), 1), (slice(6, 12), 6)]
    sums = sum(objective(logits[rows], labels[rows], labels.numel(), 0.0) for rows, _ in parts)
    torch.testing.assert_close(sums, whole)
    torch.testing.assert_close(torch.autograd.grad(sums, logits)[0], expected)


@pytest.mark.parametrize("problem", OBJECTIVES)
def test_ignored_labels_do_not_count(problem: str):
    logits, labels = case(problem)
    objective = OBJECTIVES[problem]
    smoothing = 0.0 if problem == "regression" else 0.1
    expected = objective(logits[:5], labels[:5], labels[:5].numel(), smoothing)
    (gradient,) = torch.autograd.grad(expected, logits)
    some = labels.clone()
    some[5:] = IGNORED
    found = objective(logits, some, some.ne(IGNORED).sum(), smoothing)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)
    nothing = objective(logits, torch.full_like(labels, IGNORED), labels.numel(), smoothing)
    assert torch.equal(torch.autograd.grad(nothing, logits)[0], torch.zeros_like(logits))


def test_binary_cross_entropy_is_that_of_torch_and_smooths_towards_a_half():
    logits, labels = case("multi_label_classification")
    torch.testing.assert_close(
        binary_cross_entropy(logits, labels), functional.binary_cross_entropy_with_logits(logits, labels)
    )
    smoothed = torch.where(labels > 0, 0.9, 0.1)
    torch.testing.assert_close(
        binary_cross_entropy(logits, labels.bool(), label_smoothing=0.2),
        functional.binary_cross_entropy_with_logits(logits, smoothed),
    )


def test_a_column_of_logits_is_not_broadcast_against_a_row_of_labels():
    logits, labels = case("regression")
    expected = ((logits[:, 0] - labels) ** 2).mean()
    torch.testing.assert_close(mean_squared_error(logits, labels), expected)
    with pytest.raises(ValueError, match="label_smoothing must be 0"):
        mean_squared_error(logits, labels, label_smoothing=0.1)
