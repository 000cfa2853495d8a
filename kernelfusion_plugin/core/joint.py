"""Phase 2 by Algorithm 1 (KernelFusion, Section 4 and appendix A): joint optimisation of HR image and kernel.

At each level t of a reverse diffusion, gradient steps on a consistency loss train the U-Net R, applied before and
after the frozen patch diffusion net PD, and the kernel network. Both keep their weights from one t to the next.

Where the paper is silent or ambiguous, this is what we do and why:

* x_t (line 17) is the posterior sample: mean from R(x0_{t+1}) and x_{t+1}, plus σ · ε with the ε of line 12,
  the same in all gradient steps at t. Line 28 draws the same variable again with the final weights, but line 17 of
  the next t replaces that draw, so only the last one, x_0 = R(x0) with σ = 0, would ever be used.
* In line 15, R is applied to PD's estimate (line 19) at the previous level, not to R's own output (line 20). So R
  gets the same kind of input in lines 15 and 20, in accordance with C.2 on using the same network in both places.
* x0_{t+1} and x_{t+1} are constants in lines 15 and 17: gradients do not extend to other levels.
* One Adam for both networks. Its moments are kept from one t to the next, like the weights; only the learning rate
  is annealed afresh at each t, by a cosine (A.3).
* The kernel network's rate is a tenth of R's (A.4 has the same rate for both). With factors of 1 and 0.3, the kernel
  converges before R has learnt to pass sharp edges; it then compensates for R's blur and shrinks to a point as t
  falls. With 0.1 it stays wide, and the result depends on what R learns in the few steps per t: on a 64 x 64 crop
  degraded by an L, the paper's lr = 1e-4 ended at a wide blob, and lr = 5e-4 (lr_final = 5e-5) at a visible L. Few
  cases were tried.
* Not every t is visited, only ``n_steps`` levels evenly spaced from ``t_start`` down to 0. With n_iter = 20 at each
  of hundreds of levels, Phase 2 would exceed the paper's total of 5 minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .degradation import Degradation, to_canvas
from .diffusion import Schedule, noise_like
from .kernel_models import centre_of_mass_loss
from .patch_prior import PRECISIONS, PatchPrior, autocast, take_step
from .sections import check_choice
from .state import Phase2State
from .tiles import recomputed

PIPELINES = ('kernelfusion', 'pd_unet', 'unet', 'dip')


@dataclass(frozen=True)
class JointConfig:
    """Options of Phase 2 by Algorithm 1.

    Attributes:
        pipeline: ``kernelfusion``, or an ablation of the paper's Table 3, see :mod:`.joint_ablations`: ``pd_unet``,
            ``unet`` or ``dip``.
        separate_unets: use two U-Nets, before and after PD, that share no weights (Table 5); the paper's method has
            one.
        n_iter: gradient steps at each t (A.3: 20).
        n_iter_first: gradient steps at the first t, where both networks start untrained (A.3: 100).
        lr, lr_final: Adam's rate, cosine-annealed from one to the other within each t (A.3: 1e-4, 1e-5).
        lr_kernel: factor on the rate for the kernel network (A.4: 1; see the module docstring).
        t_start: T_nd, the level to which the bicubic guess is noised, 0 … T - 1. Not in the paper; with a small R, 100
            and 300 worked about equally well. PD must have been trained up to it.
        n_steps: number of reverse steps, at most t_start. Not in the paper; the cost is proportional to it.
        sigma_scale: factor on the ancestral σ_t of line 17. Not in the paper; 1 is DDPM.
        weight_before, weight_after: weights of the consistency losses of R(x0_{t+1}) and R(x0_t) (line 22: 1, 1).
        weight_centre: weight of the centre-of-mass loss (line 22: 1; the paper does not give its unit).
        precision: precision of the networks: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 if the device supports it
            natively. Kernel, losses and diffusion arithmetic are always in float32.

    Raises:
        ValueError: an option is out of range.
    """

    pipeline: str = 'kernelfusion'
    separate_unets: bool = False
    n_iter: int = 20
    n_iter_first: int = 100
    lr: float = 1e-4
    lr_final: float = 1e-5
    lr_kernel: float = 0.1
    t_start: int = 300
    n_steps: int = 14
    sigma_scale: float = 1.0
    weight_before: float = 1.0
    weight_after: float = 1.0
    weight_centre: float = 1.0
    precision: str = 'auto'

    def __post_init__(self) -> None:
        check_choice('joint.pipeline', self.pipeline, PIPELINES)
        if self.separate_unets and self.pipeline != 'kernelfusion':
            raise ValueError(f'joint.separate_unets: the pipeline {self.pipeline} has only one U-Net, applied once')
        if self.n_iter < 1 or self.n_iter_first < 1:
            raise ValueError('joint.n_iter and joint.n_iter_first must be at least 1, '
                             f'got {self.n_iter}, {self.n_iter_first}')
        if not 0 < self.lr_final <= self.lr < math.inf:
            raise ValueError('joint.lr_final and joint.lr must be finite, and 0 < lr_final <= lr, got '
                             f'{self.lr_final}, {self.lr}')
        if not 1 <= self.n_steps <= self.t_start:
            raise ValueError(f'joint.n_steps must lie between 1 and joint.t_start, got {self.n_steps}, {self.t_start}')
        for name in ('lr_kernel', 'sigma_scale', 'weight_before', 'weight_after', 'weight_centre'):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'joint.{name} must be finite and not negative, got {getattr(self, name)}')
        check_choice('joint.precision', self.precision, PRECISIONS)
        if self.weight_before + self.weight_after == 0:
            raise ValueError('joint.weight_before and joint.weight_after are both 0: nothing ties the image to y')

    @property
    def uses_pd(self) -> bool:
        """Whether PD is used, and so Phase 1 needed."""
        return self.pipeline in ('kernelfusion', 'pd_unet')

    @property
    def total_steps(self) -> int:
        """Total number of gradient steps."""
        return self.n_iter_first + (self.n_steps - 1) * self.n_iter


def solve_joint(y: Tensor, prior: PatchPrior, degradation: Degradation, refine_net: nn.Module, kernel_model: nn.Module,
                config: JointConfig, generator: torch.Generator, refine_net_after: nn.Module | None = None,
                resume: Mapping[str, Any] | None = None, recompute: bool = False) -> Iterator[Phase2State]:
    """Algorithm 1, one state per gradient step; line numbers are those of the algorithm.

    Args:
        y: LR image (B, 3, h, w) in [-1, 1].
        prior: frozen PD: ``predict_x0(x_t, t)``, differentiable in x_t, and ``schedule``.
        degradation: forward model; the image is estimated on its canvas.
        refine_net: R, (B, 3, H, W) to (B, 3, H, W), trained in place (in train mode, as usual for deep image priors).
        kernel_model: ``forward()`` returns the kernel (K, K); trained in place.
        config: options.
        generator: the only source of randomness (on any device).
        refine_net_after: a second network, for line 20 only (Table 5); default: R itself.
        resume: a state's ``snapshot()``, to continue after that step; ``generator`` must be in its state of then.
        recompute: recompute R's activations for the gradient instead of storing them: a third more time, half the
            memory.

    Yields:
        ``config.total_steps`` states with R(x0_t), the kernel and the loss terms ``consistency_before`` (line 16),
        ``consistency_after`` (line 21), ``centre`` and ``total``, all from before the update. The last state is the
        result.

    Raises:
        ValueError: T_nd is not a level of the prior's schedule.
    """
    schedule = prior.schedule
    check_start(config, schedule)
    levels = _levels(config)
    nets = [refine_net] if refine_net_after is None else [refine_net, refine_net_after]
    optimiser = make_optimiser(nets, kernel_model, config)
    trained = [*nets, kernel_model, optimiser]
    refine = [recomputed(net) if recompute else net for net in nets]
    level = done = step = 0  # levels completed, gradient steps done at the next one, and in total

    def snapshot() -> dict[str, Any]:
        return {'at': (level, done, step), 'images': (x0_above, x_above, eps),
                'trained': [part.state_dict() for part in trained]}

    if resume is None:
        x0_above = to_canvas(y, degradation).clamp(-1, 1)                                     # line 5
        x_above = schedule.q_sample(x0_above, levels[0], noise_like(x0_above, generator))
    else:
        level, done, step = resume['at']
        x0_above, x_above, eps = (image.to(y.device) for image in resume['images'])
        load_states(trained, resume['trained'])
    for t_above, t in islice(pairwise(levels), level, None):                                  # line 11
        if done == 0:
            eps = noise_like(x0_above, generator)                                             # line 12
        n_iter = config.n_iter_first if level == 0 else config.n_iter
        for i in range(done, n_iter):                                                         # line 13
            k = kernel_model()                                                                # line 14
            with autocast(y.device, config.precision):
                x0_refined_above = refine[0](x0_above).float()                                # line 15
                x_t = schedule.posterior_step(x_above, x0_refined_above, t_above, t, eps,
                                              config.sigma_scale)                             # line 17
                x0 = prior.predict_x0(x_t, t).float()                                         # lines 18, 19
                x0_refined = refine[-1](x0).float()                                           # line 20
            losses = _losses(y, x0_refined_above, x0_refined, k, degradation, config)         # 16, 21, 22
            update(optimiser, losses['total'], config, i, n_iter)                             # lines 23, 24
            step, done = step + 1, i + 1
            if done == n_iter:
                x0_above, x_above = x0.detach(), x_t.detach()             # lines 26 to 28: see the module docstring
                level, done = level + 1, 0
            yield Phase2State(step, config.total_steps, t, x0_refined.detach(), k.detach(),
                              read(losses), snapshot)


def _losses(y: Tensor, x0_refined_above: Tensor, x0_refined: Tensor, k: Tensor, degradation: Degradation,
            config: JointConfig) -> dict[str, Tensor]:
    """Lines 16, 21 and 22: MSE(y, (R(x0_{t+1}) * k)↓), MSE(y, (R(x0_t) * k)↓), COM(k) and their weighted sum."""
    before = F.mse_loss(degradation.forward(x0_refined_above, k), y)
    after = F.mse_loss(degradation.forward(x0_refined, k), y)
    centre = centre_of_mass_loss(k)
    total = config.weight_before * before + config.weight_after * after + config.weight_centre * centre
    return {'consistency_before': before, 'consistency_after': after, 'centre': centre, 'total': total}


def read(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as numbers, with a single GPU synchronisation."""
    return dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist()))


def _levels(config: JointConfig) -> list[int]:
    """``n_steps + 1`` levels from t_start down to 0: T_nd + 1 in line 17's first pass, then the t of line 11."""
    return [round(float(t)) for t in torch.linspace(config.t_start, 0, config.n_steps + 1, dtype=torch.float64)]


def check_start(config: JointConfig, schedule: Schedule) -> None:
    """Raise ValueError unless T_nd is a level of the schedule."""
    if config.t_start >= schedule.steps:
        raise ValueError(f'joint.t_start must be below the {schedule.steps} levels of the prior, got {config.t_start}')


def make_optimiser(nets: Sequence[nn.Module], kernel_model: nn.Module, config: JointConfig) -> torch.optim.Optimizer:
    """One Adam for the U-Nets and the kernel network, with their rates; puts the U-Nets into train mode."""
    for net in nets:
        net.train().to(memory_format=torch.channels_last)
    return torch.optim.Adam([{'params': [p for net in nets for p in net.parameters()], 'factor': 1.0},
                             {'params': kernel_model.parameters(), 'factor': config.lr_kernel}], lr=config.lr)


def load_states(parts: Sequence[nn.Module | torch.optim.Optimizer], states: Sequence[Mapping[str, Any]]) -> None:
    """Restore networks and optimisers from their ``state_dict()``."""
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)


def update(optimiser: torch.optim.Optimizer, loss: Tensor, config: JointConfig, i: int, n_iter: int) -> None:
    """Gradient step ``i`` of ``n_iter``: the rate is a cosine from lr at the first to lr_final at the last."""
    share = (1 + math.cos(math.pi * i / max(n_iter - 1, 1))) / 2
    for group in optimiser.param_groups:
        group['lr'] = group['factor'] * (config.lr_final + (config.lr - config.lr_final) * share)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    take_step(optimiser)
