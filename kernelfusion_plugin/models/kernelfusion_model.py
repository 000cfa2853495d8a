"""``KernelFusionModel``: BasicSR feeds an image, ``test()`` restores it, ``nondist_validation`` does a data set."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from .. import pictures
from ..core.restore import Progress, Result, restore_steps
from .history import History
from .images import Entry
from .kernels import true_kernel
from .options import check_metrics, network_factories, parse_section
from .outputs import Restored, scores_and_files
from .priors import PriorStore, load_weights
from .progress import ProgressLog
from .toolbox import image_metrics
from .validation import ImageByImage


class KernelFusionModel(ImageByImage, BaseModel):
    """Blind super-resolution of each image from itself (KernelFusion, ICLR 2026) as a model of BasicSR.

    There is nothing to train beforehand: ``basicsr/test.py`` runs Phase 1 and Phase 2 for every image of its data
    sets (PairedImageDataset, SingleImageDataset or any with ``paths``, images of any sizes, from disk or LMDB).
    Seeds follow from ``kernelfusion: seed`` and the image's name: neither the order of the images nor
    ``manual_seed`` has any influence.

    Options, besides BasicSR's own: ``scale``; ``kernelfusion:``, keys of
    :class:`~kernelfusion_plugin.KernelFusionConfig` and of :class:`.options.GlueOptions`; ``network_g``
    (PatchDiffusion), and if wanted ``network_r`` (RefineUNet) and ``network_k`` (SirenKernel, DirectKernel,
    LinearCnnKernel); ``path.pretrain_network_g``, weights of PD for every image; per data set
    ``dataroot_kernel`` and ``kernel_tmpl``.

    Results, under ``results/<name>``: see README. A bad image costs one line in the log and an entry in
    ``runlog.failures`` (exit status 1); all others are done.

    Raises:
        ValueError: an option is unknown, out of range, or contradicts another.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        if self.is_train:
            raise ValueError('KernelFusionModel is fitted to each image by basicsr/test.py: there is nothing to train')
        self.logger = get_root_logger()
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            self.logger.warning(f'num_gpu is {opt["num_gpu"]}, but there is no GPU: the processor does the work')
            self.device = torch.device('cpu')
        self.config, self.glue = parse_section(opt)
        self.config, self.factories = network_factories(opt, self.config)
        check_metrics(opt)
        if self.glue.plot and importlib.util.find_spec('matplotlib') is None:
            self.logger.warning('NAME_run.png needs matplotlib, which is not installed: it is left out')
            self.glue = replace(self.glue, plot=False)
        path = opt['path']
        self.start_tables()
        self.priors = PriorStore(self.glue.prior_dir or self.results / 'priors', reuse=self.glue.prior_dir is not None)
        pretrained = path.get('pretrain_network_g')
        self.pretrained = load_weights(pretrained)[0] if pretrained else None

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch of one image: ``lq`` (1, C, h, w) in [0, 1], ``gt``, ``lq_path``; ``name``, ``kernel``
        (K, K), the true one, if they are known.
        """
        if data['lq'].ndim != 4 or data['lq'].shape[0] != 1:
            raise ValueError(f'KernelFusion does one image at a time, (1, C, h, w); got {tuple(data["lq"].shape)}')
        self.lq = data['lq'].to(self.device)
        self.gt = data['gt'] if 'gt' in data else None
        self.name = data.get('name') or Path(data['lq_path'][0] if 'lq_path' in data else '').stem
        self.k_true = data.get('kernel')
        self.output = self.result = None

    def test(self) -> None:
        """Phase 1, unless weights of this image are at hand, and Phase 2; fills ``output`` and ``result``."""
        y = self._rgb(self.lq)
        config, kernel = self.config, self._known_kernel()
        if kernel is not None:
            config = replace(config, kernel_size=kernel.shape[-1])
        self.history = History(None if self.k_true is None else self.k_true.numpy())
        show = ProgressLog(self.logger, self.title or self.name)
        prior_state = self.pretrained or self.priors.at_hand(self.name, y, config, self.logger)
        steps = restore_steps(y, config, name=self.name, kernel=kernel, prior_state=prior_state, **self.factories)
        repeatable = (torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
                      if self.glue.deterministic else nullcontext())
        with torch.enable_grad(), repeatable:
            try:
                self.result = _drain(steps, show, self.history.add)
            finally:
                show.close()
        if self.glue.save_prior and prior_state is None and self.result.prior_state:
            self.priors.save(self.name, y, self.result.prior_state, config)
        sr = (self.result.sr + 1) / 2
        self.output = sr.mean(dim=1, keepdim=True) if self.lq.shape[1] == 1 else sr

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """``lq``, ``result`` and, if there is one, ``gt``: (1, C, H, W) RGB in [0, 1]; ``kernel`` (K, K)."""
        visuals = OrderedDict(lq=self.lq.detach().cpu(), result=self.output.detach().cpu())
        if self.gt is not None:
            visuals['gt'] = self.gt.detach().cpu()
        visuals['kernel'] = self.result.kernel
        return visuals

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """One image from its file to its results; returns its row of ``scores.csv``."""
        data = entry.read(self.config.scale, self.glue.crop_gt)
        k_true = self.kernel_for_scores(entry, self.glue.kernel_dir, self.glue.kernel_tmpl,
                                        needed=self.glue.known_kernel is True)
        self.feed_data({**data, 'name': entry.name, 'kernel': k_true})
        self.test()
        visuals = self.get_current_visuals()
        config = self.config
        title = f'x{config.scale}, {config.solver}, {config.preset}'
        image = Restored(entry.name, visuals, config.scale, title, self.result.kernel, self.k_true)
        metrics = image_metrics(self.opt['val'].get('metrics'), visuals)
        folder = Path(self.opt['path']['visualization']) / dataset if save_img else None
        scores = scores_and_files(image, folder, self.suffix, self.glue.sheet)
        if folder is not None and self.glue.plot:
            pictures.save_plot(folder / f'{entry.name}_run.png', self.history.points(), entry.name)
        seconds = {f'seconds_{phase}': float(value) for phase, value in self.result.seconds.items()}
        self.lq = self.gt = self.output = self.result = None
        return {**scores, **seconds, 'seed': config.seed, 'solver': config.solver, 'preset': config.preset,
                **{f'val_{name}': value for name, value in metrics.items()}}

    def about_run(self) -> dict[str, Any]:
        """``config`` of ``summary.json``."""
        return {'config': self.config.to_dict()}

    def _known_kernel(self) -> Tensor | None:
        """The kernel to restore with (K, K), None for blind."""
        known = self.glue.known_kernel
        if known is False:
            return None
        kernel = self.k_true if known is True else true_kernel(known, self.glue.kernel_tmpl, self.name)
        if kernel is None:
            raise ValueError(f'known_kernel is {known!r}, but there is no kernel for the image {self.name!r}')
        return kernel

    @staticmethod
    def _rgb(lq: Tensor) -> Tensor:
        """(1, C, h, w) in [0, 1] to RGB in [-1, 1]; one channel becomes three equal ones."""
        return (lq * 2 - 1).expand(-1, 3, -1, -1) if lq.shape[1] == 1 else lq * 2 - 1


def _drain(steps: Generator[Progress, None, Result], *listeners: Any) -> Result:  # noqa: ANN401
    """Run a generator of steps to its end; every listener is called with every step."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        for listen in listeners:
            listen(progress)


def register() -> None:
    """Enter the model into the registry; a second call, or a name that is taken already, changes nothing."""
    if KernelFusionModel.__name__ not in MODEL_REGISTRY:
        MODEL_REGISTRY.register(KernelFusionModel)
