"""``KernelFusionModel``: BasicSR feeds an image, ``test()`` restores it, ``nondist_validation`` does a data set."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.restore import Progress, Result, restore_steps
from .history import History
from .options import network_factories, parse_section
from .priors import PriorStore, load_weights
from .progress import ProgressLog
from .restoration_model import Restoration, RestorationModel


class KernelFusionModel(RestorationModel):
    """Blind super-resolution of each image from itself (KernelFusion, ICLR 2026) as a model of BasicSR.

    There is nothing to train beforehand: ``basicsr/test.py`` runs Phase 1 and Phase 2 for every image of its data
    sets. Seeds follow from ``kernelfusion: seed`` and the image's name: neither the order of the images nor
    ``manual_seed`` has any influence.

    Options, besides BasicSR's own: ``scale``; ``kernelfusion:``, keys of
    :class:`~kernelfusion_plugin.KernelFusionConfig` and of :class:`.options.GlueOptions`; ``network_g``
    (PatchDiffusion), and if wanted ``network_r`` (RefineUNet) and ``network_k`` (SirenKernel, DirectKernel,
    LinearCnnKernel); ``path.pretrain_network_g``, weights of PD for every image; per data set
    ``dataroot_kernel`` and ``kernel_tmpl``.

    Raises:
        ValueError: an option is unknown, out of range, or contradicts another.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.config, glue = parse_section(opt)
        self.config, self.factories = network_factories(opt, self.config)
        super().__init__(opt, self.config.scale, glue)
        if glue.plot and importlib.util.find_spec('matplotlib') is None:
            self.logger.warning('NAME_run.png needs matplotlib, which is not installed: it is left out')
            self.glue = replace(glue, plot=False)
        self.priors = PriorStore(glue.prior_dir or self.results / 'priors', reuse=glue.prior_dir is not None)
        pretrained = opt['path'].get('pretrain_network_g')
        self.pretrained = load_weights(pretrained)[0] if pretrained else None

    def restore(self, y: Tensor) -> Restoration:
        """Phase 1, unless weights of this image are at hand, and Phase 2."""
        config, kernel = self.config, self.known_kernel()
        if kernel is not None:
            config = replace(config, kernel_size=kernel.shape[-1])
        history = History(None if self.k_true is None else self.k_true.numpy())
        show = ProgressLog(self.logger, self.title or self.name)
        prior_state = self.pretrained or self.priors.at_hand(self.name, y, config, self.logger)
        steps = restore_steps(y, config, name=self.name, kernel=kernel, prior_state=prior_state, **self.factories)
        repeatable = (torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
                      if self.glue.deterministic else nullcontext())
        with torch.enable_grad(), repeatable:
            try:
                result = _drain(steps, show, history.add)
            finally:
                show.close()
        if self.glue.save_prior and prior_state is None and result.prior_state:
            self.priors.save(self.name, y, result.prior_state, config)
        return Restoration(result.sr, result.kernel, result.seconds, 'KernelFusion',
                           {'seed': config.seed, 'solver': config.solver, 'preset': config.preset},
                           history.points() if self.glue.plot else None)

    def settings(self) -> dict[str, Any]:
        """The core's configuration."""
        return self.config.to_dict()


def _drain(steps: Generator[Progress, None, Result], *listeners: Any) -> Result:  # noqa: ANN401
    """Run a generator of steps to its end; every listener is called with every step."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        for listen in listeners:
            listen(progress)
