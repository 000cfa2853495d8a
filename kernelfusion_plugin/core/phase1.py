"""The networks that Phase 1 fits to y, one after another: what each is, what it is fitted to, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .config import KernelFusionConfig
from .degradation import downscale_bicubic
from .nets.patch_net import PatchDiffusionNet
from .patch_prior import PriorConfig
from .solver import Factory
from .solvers import SOLVERS
from .texture_prior import load_texture_net


@dataclass(frozen=True)
class Phase:
    """One of the networks that Phase 1 fits.

    Attributes:
        label: the name shown to those who watch the run.
        section: the one of :class:`~.config.KernelFusionConfig` with its settings: ``prior`` for PD, ``tuning`` for
            the fine-tuned texture prior.
        halved: whether it is fitted to y at half its size, or to y itself.
    """

    label: str
    section: str = 'prior'
    halved: bool = False


PHASES = {'prior': Phase('patch prior'), 'half': Phase('patch prior at half size', halved=True),
          'tuned': Phase('texture prior, tuned', 'tuning')}


def phase1_images(y: Tensor, config: KernelFusionConfig, kernel_known: bool) -> dict[str, tuple[Tensor, PriorConfig]]:
    """Images and settings by network of Phase 1: y, and y at half size where the kernel is found with that."""
    return {phase: (half_size(y) if PHASES[phase].halved else y, how)
            for phase, how in SOLVERS[config.solver].training(config, kernel_known).items()}


def factory(phase: str, config: KernelFusionConfig, make_patch_net: Factory | None = None) -> Factory:
    """Factory of a phase's network; ``make_patch_net`` replaces the PD of the config."""
    if PHASES[phase].section == 'tuning':
        return partial(load_texture_net, config.texture_weights)
    return make_patch_net or partial(PatchDiffusionNet, config.prior.channels)


def half_size(y: Tensor) -> Tensor:
    """y at half its size, with antialiasing: in ``internal``, the prior that finds the kernel is fitted to it."""
    return downscale_bicubic(y, 2).clamp(-1, 1)


def lacking_weights(state: Mapping[str, Tensor], config: KernelFusionConfig, kernel_known: bool) -> list[str]:
    """Phases that a run of ``config`` needs but ``state`` has no weights for."""
    there = split(state)
    return [phase for phase in SOLVERS[config.solver].training(config, kernel_known) if phase not in there]


def unused_weights(state: Mapping[str, Tensor], config: KernelFusionConfig) -> list[str]:
    """Phases that ``state``, a run's ``prior_state``, has weights for but a run of ``config`` does not have."""
    return [phase for phase in split(state) if phase not in SOLVERS[config.solver].training(config)]


def join(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights of all nets as one state dict: PD's under their own names, others prefixed with their phase."""
    return {('' if phase == 'prior' else f'{phase}.') + key: value.detach().cpu()
            for phase, net in nets.items() for key, value in net.state_dict().items()}


def split(state: Mapping[str, Tensor] | None) -> dict[str, dict[str, Tensor]]:
    """The inverse of :func:`join`; phases without weights are left out."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in (state or {}).items():
        phase, _, name = key.partition('.')
        if phase not in PHASES:
            phase, name = 'prior', key
        parts.setdefault(phase, {})[name] = value
    return parts


def load_into(net: nn.Module, state: Mapping[str, Tensor], phase: str) -> None:
    """Load a phase's weights into its network.

    Raises:
        ValueError: the weights belong to another network; in one line.
    """
    try:
        net.to(memory_format=torch.channels_last).load_state_dict(state)  # as in training: the layout affects rounding
    except RuntimeError as error:
        what = PHASES[phase]
        way = 'set prior.channels as they were trained with, or train anew' if what.section == 'prior' else 'train anew'
        raise ValueError(f'the weights of Phase 1 ({what.label}) do not fit the network '
                         f'({str(error).splitlines()[-1].strip()}): {way}') from None
