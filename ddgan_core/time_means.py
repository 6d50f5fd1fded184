"""What a training records: running means of losses, logits and gradient norms, kept apart by t."""

from collections.abc import Callable

import torch

from ddgan_core.shapes import Float, Int, Tensor

MAX_TIME_BINS = 10  # exactly up to T = 10, in ten equal ranges beyond


@torch.no_grad()
def variance_by_latent(
    model: Callable[..., Tensor], x_t: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], z_dim: int,
    random: torch.Generator, draws: int = 4,
) -> Float[Tensor, " n"]:  # fmt: skip
    """Var_z of the answers x_0 hat to each x_t, mean over pixels, without bias: 0 where the latent is not used."""
    z = torch.randn(draws, len(t), z_dim, generator=random, device=x_t.device)
    return torch.stack([model(x_t, t, draw) for draw in z]).var(0).flatten(1).mean(1)


class TimeMeans:
    """Running means of named quantities since the last `read`: of one a sample, overall and per range of t."""

    def __init__(self, T: int, device: torch.device | str) -> None:
        self.T, self.bins, self.device = T, min(T, MAX_TIME_BINS), device
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, t: Tensor | None = None) -> None:
        """values: [n] and their t, or one value of the whole batch, which belongs to no t."""
        if name not in self.sums:
            self.sums[name] = torch.zeros((2,) if t is None else (2, self.bins), device=self.device)
        total = self.sums[name]
        if t is None:
            total += torch.stack([values.detach().float(), torch.ones_like(values)])
            return
        where = (t - 1) * self.bins // self.T
        total[0].index_add_(0, where, values.detach().float())
        total[1].index_add_(0, where, torch.ones_like(values, dtype=torch.float32))

    def read(self) -> dict[str, float]:
        """{name: mean, name_t1: mean at the first range, ...}; NaN where nothing was seen. Starts anew."""
        means: dict[str, float] = {}
        for name, sums in self.sums.items():
            total = sums.cpu().double()
            sums.zero_()  # in place: a graph adds to this very tensor
            if total[1].sum() == 0:
                continue
            means[name] = (total[0].sum() / total[1].sum()).item()
            if total.ndim == 2:
                means |= {f"{name}_t{b + 1}": v for b, v in enumerate((total[0] / total[1]).tolist())}
        return means
