"""``RestorationModel``: what all models of this package share. BasicSR gives a data set; each image of it is read,
restored, scored and written on its own.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import Tensor

from .. import report, runlog
from .images import BadImage, Entry, entries
from .kernels import true_kernel
from .options import FileOptions, check_metrics
from .outputs import Restoration, scores_and_files
from .toolbox import image_metrics

DERIVED = ('results_root', 'experiments_root', 'log', 'visualization')  # paths that BasicSR fills in


class RestorationModel(BaseModel, ABC):
    """Test-time model of BasicSR: scores, files and failures of every image; a subclass says how to restore one.

    Works with ``basicsr/test.py`` and any data set that has ``paths`` (PairedImageDataset, SingleImageDataset, ours):
    images of any sizes, from disk or LMDB, with true kernels from ``dataroot_kernel`` and ``kernel_tmpl``.

    Results, under ``results/<name>``: see README. A bad image costs one line in the log and an entry in
    ``runlog.failures`` (exit status 1); all others are done.

    Args:
        opt: BasicSR's options.
        scale: s.
        glue: which files are read and written.

    Raises:
        ValueError: there is nothing to train, or a metric of ``val.metrics`` is unknown.
    """

    def __init__(self, opt: dict[str, Any], scale: int, glue: FileOptions) -> None:
        super().__init__(opt)
        if self.is_train:
            raise ValueError(f'{type(self).__name__} works on each image by itself, in basicsr/test.py: '
                             'there is nothing to train')
        self.logger = get_root_logger()
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            self.logger.warning(f'num_gpu is {opt["num_gpu"]}, but there is no GPU: the processor does the work')
            self.device = torch.device('cpu')
        check_metrics(opt)
        self.scale, self.glue = scale, glue
        self.results = Path(opt['path'].get('results_root') or opt['path']['visualization'])
        self.rows: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.finished = 0  # data sets; two may bear the same name
        self.title = ''

    @abstractmethod
    def restore(self, y: Tensor) -> Restoration:
        """Restore y (1, 3, h, w) in [-1, 1]; ``name`` and ``k_true`` are at hand.

        Raises:
            ValueError: in one line, if this image cannot be done.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What ``summary.json`` says about the method, plain values."""

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch of one image: ``lq`` (1, C, h, w) in [0, 1], ``gt``, ``lq_path``; ``name``, ``kernel``
        (K, K), the true one, if they are known.
        """
        if data['lq'].ndim != 4 or data['lq'].shape[0] != 1:
            raise ValueError(f'{type(self).__name__} does one image at a time, (1, C, h, w); '
                             f'got {tuple(data["lq"].shape)}')
        self.lq = data['lq'].to(self.device)
        self.gt = data['gt'] if 'gt' in data else None
        self.name = data.get('name') or Path(data['lq_path'][0] if 'lq_path' in data else '').stem
        self.k_true = data.get('kernel')
        self.output = self.restoration = None

    def test(self) -> None:
        """Restore what was fed; fills ``restoration`` and ``output``."""
        self.restoration = self.restore(self._rgb(self.lq))
        sr = (self.restoration.sr + 1) / 2
        self.output = sr.mean(dim=1, keepdim=True) if self.lq.shape[1] == 1 else sr

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """``lq``, ``result`` and, if there is one, ``gt``: (1, C, H, W) RGB in [0, 1]; ``kernel`` (K, K), if the
        method has one.
        """
        visuals = OrderedDict(lq=self.lq.detach().cpu(), result=self.output.detach().cpu())
        if self.gt is not None:
            visuals['gt'] = self.gt.detach().cpu()
        if self.restoration.kernel is not None:
            visuals['kernel'] = self.restoration.kernel
        return visuals

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Rank 0 does all images."""
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Restore every image of a data set, write what comes out, and log the means.

        The loader's data set is read here image by image: within the loader one bad file would end the run.
        """
        dataset = dataloader.dataset
        name = dataset.opt['name']
        todo = list(entries(dataset))
        done: list[dict[str, Any]] = []
        failed: list[str] = []
        if not todo:
            runlog.record_failure(f'{name}: there are no images')
        for number, entry in enumerate(todo, 1):
            self.title = f'[{number}/{len(todo)}] {entry.name}'
            try:
                row = self._one_image(entry, name, save_img)
            except Exception as error:  # noqa: BLE001  (the other images are still to be done)
                failed.append(entry.name)
                self._report(entry, error)
                continue
            done.append(row)
            self.rows.append(row)
            report.write_scores(self.results / 'scores.csv', self.rows)
        report.write_scores(self.results / 'scores.csv', self.rows)  # the head at least, where nothing was restored
        self.datasets[name] = {'images': len(done), 'failed': failed, 'mean': report.mean_scores(done)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line(name, done, len(failed)))
        self._toolbox_means(name, done, current_iter, tb_logger)
        self.finished += 1
        runlog.end_of_dataset(self.opt, self.finished)

    def _one_image(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """One image from its file to its results; returns its row of ``scores.csv``."""
        data = entry.read(self.scale, self.glue.crop_gt)
        self.feed_data({**data, 'name': entry.name, 'kernel': self._true_kernel(entry)})
        self.test()
        visuals = self.get_current_visuals()
        metrics = image_metrics(self.opt['val'].get('metrics'), visuals)
        folder = Path(self.opt['path']['visualization']) / dataset if save_img else None
        suffix = self.opt['val'].get('suffix') or self.opt['name']
        scores = scores_and_files(entry.name, visuals, self.restoration, self.k_true, self.scale, folder, suffix,
                                  self.glue.sheet)
        self.lq = self.gt = self.output = self.restoration = None
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()
        return {'dataset': dataset, 'image': entry.name, **scores,
                **{f'val_{name}': value for name, value in metrics.items()}}

    def _true_kernel(self, entry: Entry) -> Tensor | None:
        """The data set's true kernel of this image. A bad file of a kernel that only scores need is reported once."""
        options = entry.dataset.opt
        place = options.get('dataroot_kernel') or self.glue.kernel_dir
        try:
            return true_kernel(place, options.get('kernel_tmpl') or self.glue.kernel_tmpl, entry.name)
        except ValueError as error:
            if self._known is True:
                raise
            if str(error) not in runlog.failures:
                self.logger.error(f'{error}. Results come without kernel scores')
                runlog.record_failure(str(error))
            return None

    @property
    def _known(self) -> bool | str:
        """``known_kernel`` of the methods that have it: true, false, or where the kernels are."""
        return getattr(self.glue, 'known_kernel', False)

    def known_kernel(self) -> Tensor | None:
        """The kernel to restore with (K, K), None for blind.

        Raises:
            ValueError: it is asked for, and there is none for this image.
        """
        if self._known is False:
            return None
        kernel = self.k_true if self._known is True else true_kernel(self._known, self.glue.kernel_tmpl, self.name)
        if kernel is None:
            raise ValueError(f'known_kernel is {self._known!r}, but there is no kernel for the image {self.name!r}')
        return kernel

    @staticmethod
    def _rgb(lq: Tensor) -> Tensor:
        """(1, C, h, w) in [0, 1] to RGB in [-1, 1]; one channel becomes three equal ones."""
        return (lq * 2 - 1).expand(-1, 3, -1, -1) if lq.shape[1] == 1 else lq * 2 - 1

    def _report(self, entry: Entry, error: Exception) -> None:
        """One line for an image that could not be done; the traceback too where nobody foresaw the error."""
        reason = (str(error).strip().splitlines() or [''])[0]
        if isinstance(error, BadImage):
            message = reason
        elif isinstance(error, ValueError):
            message = f'{entry.path}: {reason}'
        elif isinstance(error, torch.OutOfMemoryError):
            message = f'{entry.path}: out of GPU memory'
        else:
            message = f'{entry.path}: {type(error).__name__}: {reason}'
            self.logger.error(traceback.format_exc())
        self.logger.error(f'{message}. The image is left out, the run goes on')
        runlog.record_failure(message)

    def _toolbox_means(self, dataset: str, rows: list[dict[str, Any]], current_iter: Any, tb_logger: Any) -> None:  # noqa: ANN401
        """Means of ``val.metrics`` as BasicSR logs them; infinite values (identical images) are left out."""
        names = list(self.opt['val'].get('metrics') or {})
        if not names:
            return
        means = report.mean_scores(rows)
        means = {name: means[f'val_{name}'] for name in names if f'val_{name}' in means}
        self.metric_results = means
        self._initialize_best_metric_results(dataset)
        lines = [f'Validation {dataset}']
        for name, value in means.items():
            self._update_best_metric_result(dataset, name, value, current_iter)
            infinite = sum(row.get(f'val_{name}') == float('inf') for row in rows)
            lines.append(f'\t # {name}: {value:.4f}' + (f' ({infinite} infinite left out)' if infinite else ''))
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset}/{name}', value, current_iter)
        lines += [f'\t # {name}: no value' for name in names if name not in means]
        self.logger.info('\n'.join(lines))

    def _summary(self) -> dict[str, Any]:
        options = {key: value for key, value in self.opt.items() if key not in ('dist', 'rank', 'world_size')}
        options['path'] = {key: value for key, value in self.opt['path'].items() if key not in DERIVED}
        return {'name': self.opt['name'], **report.environment(self.device), 'config': self.settings(),
                'datasets': self.datasets, 'options': options}
