"""The ablations of Algorithm 1 in Table 3 (KernelFusion, Section 5, "Ablations"): one U-Net, applied once.

All train the U-Net R and the kernel network with the same loss, MSE(y, (R(u) * k)↓s) + COM(k), and with the optimiser,
rates and number of gradient steps of Algorithm 1. They differ in R's input u:

* ``dip`` (i): u is white noise, drawn once; no diffusion, no level t (deep image prior, Ulyanov et al. 2018). The rate
  is annealed once, over all steps.
* ``unet`` (ii): u = x_t. The reverse diffusion starts from the noised bicubic guess; R(x_t) is the estimate of x0 from
  which the next x_t is drawn.
* ``pd_unet`` (iii): u = PD's estimate of x0 at x_t, as in lines 18 and 19; otherwise like ``unet``.

(iv) is Algorithm 1. The paper describes each in one sentence; where it is silent (distribution and channels of the
noise, levels visited), we do as in Algorithm 1: N(0, 1) in the image's three channels, and ``n_steps`` levels evenly
spaced from T_nd down to 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .degradation import Degradation, to_canvas
from .diffusion import Schedule, noise_like
from .joint import JointConfig, check_start, load_states, make_optimiser, read, set_rate
from .kernel_models import centre_of_mass_loss
from .patch_prior import PatchPrior, autocast, take_step
from .state import Phase2State


def solve_ablation(y: Tensor, prior: PatchPrior | None, schedule: Schedule, degradation: Degradation,
                   refine_net: nn.Module, kernel_model: nn.Module, config: JointConfig,
                   generator: torch.Generator, resume: Mapping[str, Any] | None = None) -> Iterator[Phase2State]:
    """Phase 2 by the ablation ``config.pipeline``; for other arguments see :func:`~.joint.solve_joint`.

    Args:
        prior: PD; needed by ``pd_unet``, None otherwise.
        schedule: PD's schedule, or the one to use without PD.

    Yields:
        ``config.total_steps`` states with R(u), the kernel, and the loss terms ``consistency``, ``centre``, ``total``.

    Raises:
        ValueError: the pipeline is Algorithm 1 itself, PD is missing, or T_nd is not a level of the schedule.
    """
    if config.pipeline == 'kernelfusion' or (config.uses_pd and prior is None):
        raise ValueError(f'the pipeline {config.pipeline} ' + ('needs PD' if prior is None else 'is not an ablation'))
    check_start(config, schedule)
    optimiser = make_optimiser([refine_net], kernel_model, config)
    trained = [refine_net, kernel_model, optimiser]
    walk = [(0, -1, config.total_steps)] if config.pipeline == 'dip' else _walk(config)
    level = done = step = 0  # levels completed, gradient steps done at the next one, and in total

    def snapshot() -> dict[str, Any]:
        return {'at': (level, done, step), 'x_t': x_t, 'trained': [part.state_dict() for part in trained]}

    if resume is None:
        x_t = to_canvas(y, degradation).clamp(-1, 1)
        noise = noise_like(x_t, generator)
        x_t = noise if config.pipeline == 'dip' else schedule.q_sample(x_t, config.t_start, noise)
    else:
        level, done, step = resume['at']
        x_t = resume['x_t'].to(y.device)
        load_states(trained, resume['trained'])
    for t, t_next, n_iter in walk[level:]:
        u = prior.predict_x0(x_t, t).float() if config.uses_pd else x_t
        for i in range(done, n_iter):
            k = kernel_model()
            with autocast(y.device, config.precision):
                x0 = refine_net(u).float()
            losses = {'consistency': F.mse_loss(degradation.forward(x0, k), y), 'centre': centre_of_mass_loss(k)}
            losses['total'] = losses['consistency'] + config.weight_centre * losses['centre']
            set_rate(optimiser, config, i, n_iter)
            optimiser.zero_grad(set_to_none=True)
            losses['total'].backward()
            take_step(optimiser)
            step, done = step + 1, i + 1
            if done == n_iter:
                if t_next >= 0:
                    noise = noise_like(x_t, generator)
                    x_t = schedule.posterior_step(x_t, x0.detach(), t, t_next, noise, config.sigma_scale)
                level, done = level + 1, 0
            yield Phase2State(step, config.total_steps, t, x0.detach(), k.detach(),
                              read(losses), snapshot)


def _walk(config: JointConfig) -> list[tuple[int, int, int]]:
    """(t, the next t, gradient steps at t): ``n_steps`` levels from T_nd down to 0, -1 after the last."""
    levels = torch.linspace(config.t_start, 0, config.n_steps, dtype=torch.float64).round().int().tolist()
    counts = [config.n_iter_first] + [config.n_iter] * (config.n_steps - 1)
    return [(t, t_next, count) for (t, t_next), count in zip(pairwise([*levels, -1]), counts)]
