"""``KernelFusionModel``: KernelFusion as a BasicSR model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..advice import kernel_warning, with_blur_warning
from ..checkpoints import Stopped, StopRequest, drain, fingerprint
from ..core.config import KernelFusionConfig
from ..core.faults import prefixed
from ..core.inputs import check_takes_kernels, grid_for
from ..core.metrics import kernel_ncc
from ..core.phase1 import lacking_weights, unused_weights
from ..core.restore import Progress, Result, repeatable, restore_steps
from ..core.solver import Factory
from ..core.texture_prior import load_texture_net
from ..sharing import Outcome
from .build import network_factories
from .levels import KERNELFUSION
from .options import GlueOptions, check_known_kernel, parse_section
from .priors import PriorStore, image_digest, load_weights
from .restoration_model import MethodResult, RestorationModel
from .unfinished import Unfinished
from .work import Work


class KernelFusionModel(RestorationModel):
    """Blind super-resolution of each image by itself (KernelFusion, ICLR 2026) as a BasicSR model.

    Nothing is trained beforehand: ``basicsr/test.py`` runs Phase 1 and Phase 2 for every image of its data sets.
    Random seeds depend on ``kernelfusion: seed`` and the image's name only, not on ``manual_seed`` or the order of
    the images.

    Options, besides BasicSR's own: ``scale``; ``kernelfusion:``, keys of
    :class:`~kernelfusion_plugin.KernelFusionConfig` and of :class:`.options.GlueOptions`; ``network_g``
    (PatchDiffusion) and, optionally, ``network_r`` (RefineUNet) and ``network_k`` (SirenKernel, DirectKernel,
    LinearCnnKernel); ``path.pretrain_network_g``, PD weights for every image; per data set ``dataroot_kernel`` and
    ``kernel_tmpl``.

    Raises:
        ValueError: an option is unknown, out of range, or contradicts another.
    """

    PLACES = KERNELFUSION

    def __init__(self, opt: dict[str, Any]) -> None:
        self.config, glue, self.factories = self.read_options(opt)
        super().__init__(opt, self.config.scale, glue)
        if glue.plot and importlib.util.find_spec('matplotlib') is None:
            self.logger.warning('NAME_run.png is not written: it needs matplotlib, which is not installed')
            self.files = replace(glue, plot=False)
        self.priors = PriorStore(glue.prior_dir or self.results / 'priors', reuse=glue.prior_dir is not None)
        pretrained = opt['path'].get('pretrain_network_g')
        self.pretrained = load_weights(pretrained)[0] if pretrained else None
        if 'prior' in unused_weights(self.pretrained or {}, self.config):
            raise ValueError(f'path.pretrain_network_g: {pretrained}: weights of PD, but this run has no PD: set '
                             'kernelfusion.em.final_prior to internal or both, or solver to joint')
        self.unfinished = Unfinished(self.results, opt, self.logger)
        if opt['rank'] == 0:
            self.unfinished.begin(self.files.resume)
        self.dataset = self.key = ''  # fingerprint of the current image, '' if it cannot be resumed
        self.saved_prior: list[Path] = []
        self.stop = StopRequest()

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]
                     ) -> tuple[KernelFusionConfig, GlueOptions, dict[str, Factory | None]]:
        """The section ``kernelfusion:`` and the networks; see :class:`.validation.ImageByImage`."""
        super().read_options(opt)
        config, glue = parse_section(opt)
        check_known_kernel(glue, opt)
        if glue.known_kernel:
            with prefixed('kernelfusion.known_kernel'):
                check_takes_kernels(config)
        config, factories = network_factories(opt, config)
        if config.texture_weights:
            with prefixed('kernelfusion.texture_weights'):  # once, not for each image
                load_texture_net(config.texture_weights)
        return config, glue, factories

    def restore(self, y: Tensor) -> MethodResult:
        """Run Phase 1, unless there are saved weights for this image, and Phase 2."""
        config, kernel, title = self.config, self.known_kernel(), self.title or self.name
        if kernel is not None:
            config = replace(config, kernel_size=grid_for(kernel.shape[-1], config.scale))
        prior_state = self.pretrained or self.priors.at_hand(self.name, y, config, self.logger, kernel is not None)
        result = self._run(y, config, kernel, prior_state, title)
        if kernel is None and (warning := kernel_warning(y, result.kernel, 'kernelfusion: kernel_size:')):
            self.logger.warning(f'{title}: {warning}')
        if self.files.save_prior and not self.pretrained:
            self._save_prior(y, result, prior_state or {}, kernel is not None)
        about = {'surprise': result.surprise, 'seed': config.seed, 'solver': config.solver, 'preset': config.preset}
        return MethodResult(result.sr, result.kernel, result.seconds, 'KernelFusion', about,
                            result.trace if self.files.plot else None, result.kernels)

    def _run(self, y: Tensor, config: KernelFusionConfig, kernel: Tensor | None,
             prior_state: dict[str, Tensor] | None, title: str) -> Result:
        """Run or resume both phases; the trace also gets ``kernel_ncc``, if the true kernel is known.

        Raises:
            SystemExit: a stop was requested by Ctrl-C or SIGTERM.
        """
        checkpoint = (self.unfinished.checkpoint(self.dataset, self.name, self.key, self.files.checkpoint_every)
                      if self.key else None)
        snapshot = checkpoint.load() if checkpoint else None
        if snapshot is not None:
            self.logger.info(f'{title}: resumes from its checkpoint')
        correlations: list[float] = list((snapshot or {}).get('correlations', ()))  # with the true kernel, by step

        def compare(progress: Progress) -> None:
            if self.k_true is not None and progress.kernel is not None:
                correlations.append(kernel_ncc(progress.kernel, self.k_true))

        steps = restore_steps(y, config, name=self.name, kernel=kernel, prior_state=prior_state, resume=snapshot,
                              **self.factories)
        if snapshot is None and kernel is None:
            steps = with_blur_warning(steps, y, config, lambda warning: self.logger.warning(f'{title}: {warning}'))
        exact = repeatable(self.device) if self.files.deterministic else nullcontext()
        try:
            with torch.enable_grad(), exact, closing(self.progress(title)) as show:
                result = drain(steps, checkpoint, (show, compare), self.stop, lambda: {'correlations': correlations})
        except Stopped as stopped:
            self.logger.info(f'{title}: stopped. The same command resumes '
                             + ('from here' if checkpoint else 'at the start of this image'))
            raise SystemExit(128 + stopped.signal) from stopped
        phase2 = (row for row in result.trace if row['phase'] == config.solver)
        for row, correlation in zip(phase2, correlations):
            row['kernel_ncc'] = correlation
        return result

    def _save_prior(self, y: Tensor, result: Result, given: dict[str, Tensor], kernel_known: bool) -> None:
        """Save the weights of the networks fitted in this run, if there are any, beside those ``given`` to it."""
        fitted = lacking_weights(given, result.config, kernel_known)
        if not fitted:
            return
        path = self.priors.save(self.name, y, {**given, **result.prior_state}, result.config, fitted)
        if not self.priors.reuse:  # a shared file may be extended by other runs
            self.saved_prior = [path]

    def settings(self) -> dict[str, Any]:
        """The core's configuration."""
        return self.config.to_dict()

    def done_before(self, dataset: str) -> dict[str, Any] | None:
        """Row of the current image from an earlier, stopped run, if its files are intact; else None."""
        self.dataset, self.key, self.saved_prior = dataset, self._fingerprint(), []
        finished = self.unfinished.finished(dataset, self.name, self.key)
        if finished is None:
            return None
        row, faults = finished
        self.logger.info(f'{self.title}: done before the run was stopped; its results are kept')
        for fault in faults:  # the picture is the same, so the metric would fail again
            self.report_metric(fault)
        if faults:
            self.logger.info('It failed in the earlier run; kernelfusion: resume: false repeats everything')
        return row

    def note_done(self, dataset: str, files: list[Path], row: dict[str, Any]) -> None:
        """Record the image as done, for a later run that resumes this one."""
        self.unfinished.finish(dataset, self.name, self.key, [*files, *self.saved_prior], row,
                               self.metric_faults)
        self.key = ''

    def endings(self, save_img: bool) -> list[str]:
        """Name endings, including those of the files in ``unfinished`` and of PD's weights."""
        kept = [PriorStore.LONGEST_ENDING] if self.files.save_prior or self.priors.reuse else []
        return [*super().endings(save_img), '.json', *kept]

    def attempt(self, work: Work, place: int, save_img: bool) -> Outcome:
        """One image, see :class:`.validation.ImageByImage`; Ctrl-C and SIGTERM stop it after the current step."""
        with self.stop:
            if self.stop.number is not None:  # requested in the last step of the previous image
                raise SystemExit(128 + self.stop.number)
            return super().attempt(work, place, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Restore a data set, see :class:`.validation.ImageByImage`; holds the lock of the run meanwhile."""
        with self.unfinished.at_work():
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def begin_dataset(self, name: str, images: list[str]) -> None:
        """Remove leftovers of images that are no longer in the data set."""
        self.unfinished.drop_others(name, images)

    def end_run(self) -> None:
        """Remove the folder ``unfinished``. Not called if images failed: the same command then retries only those."""
        self.unfinished.end()

    def _fingerprint(self) -> str:
        """Fingerprint of all that determines the current image's row, except options, which are compared as a whole."""
        images = [image_digest(x) for x in (self.lq, self.gt, self.k_true) if x is not None]
        return fingerprint('/'.join(images), self.config, self.name, self.device, self.known_kernel())
