"""Penalties of critics whose gradients are known by hand."""

import pytest
import torch

from ddgan_core.penalties import gradient_penalty, r1_penalty, r1_r2_penalty

REAL = torch.arange(12.0).view(3, 1, 2, 2)


def test_r1_of_a_quadratic_critic() -> None:
    """D(x) = sum_i w_i x_i^2 / 2 has gradient w x, so R1 = |w x|^2 / 2; the fakes and the mix do not matter."""
    w = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 2).requires_grad_(True)
    penalty = r1_penalty(
        lambda x: (w * x**2 / 2).flatten(1).sum(1), REAL, torch.full_like(REAL, torch.nan), torch.ones(3)
    )
    assert torch.allclose(penalty, (w * REAL).flatten(1).square().sum(1) / 2)
    (gradient,) = torch.autograd.grad(penalty.sum(), w)  # the penalty trains the critic
    assert torch.allclose(gradient, (w * REAL**2).sum(0))


def test_r1_and_r2_of_a_quadratic_critic() -> None:
    """Half the squared gradient at each end, |w x|^2 / 2 + |w y|^2 / 2: symmetric in the two; no mix is looked at."""
    w = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 2).requires_grad_(True)
    fake, mix = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.full((3,), torch.nan)

    def score(x: torch.Tensor) -> torch.Tensor:
        return (w * x**2 / 2).flatten(1).sum(1)

    penalty = r1_r2_penalty(score, REAL, fake, mix)
    assert torch.allclose(penalty, ((w * REAL).square() + (w * fake).square()).flatten(1).sum(1) / 2)
    assert torch.equal(penalty, r1_r2_penalty(score, fake, REAL, mix))
    (gradient,) = torch.autograd.grad(penalty.sum(), w)
    assert torch.allclose(gradient, (w * (REAL**2 + fake**2)).sum(0))


def test_gradient_penalty_of_a_linear_critic() -> None:
    """D(x) = w x has the gradient w everywhere: (|w| - 1)^2, with gradient 2 (|w| - 1) w / |w| in w."""
    w = torch.tensor([3.0, 0.0, 4.0, 0.0]).view(1, 2, 2).requires_grad_(True)
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    penalty = gradient_penalty(lambda x: (w * x).flatten(1).sum(1), real, fake, torch.rand(3))
    assert torch.allclose(penalty, torch.full((3,), 16.0))
    (gradient,) = torch.autograd.grad(penalty.sum(), w)
    assert torch.allclose(gradient, 3 * 8 * w.detach() / 5)


def test_gradient_penalty_is_taken_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has the gradient x: the penalty reads the point at which it was taken."""
    real, fake, mix = torch.full((3, 1), 2.0), torch.full((3, 1), 6.0), torch.tensor([0.0, 0.25, 1.0])
    penalty = gradient_penalty(lambda x: x.square().sum(1) / 2, real, fake, mix)
    assert penalty.tolist() == pytest.approx([25.0, 16.0, 1.0])


@pytest.mark.parametrize("penalty", [r1_penalty, r1_r2_penalty, gradient_penalty])
def test_a_penalty_reaches_the_critic_and_never_the_images(penalty) -> None:
    real, fake = REAL.clone().requires_grad_(True), (REAL + 1).requires_grad_(True)
    w = torch.ones(1, 2, 2, requires_grad=True)
    penalty(lambda x: (w * x**2).flatten(1).sum(1), real, fake, torch.full((3,), 0.5)).sum().backward()
    assert w.grad is not None
    assert real.grad is None
    assert fake.grad is None
