"""What our models do with a data set: image by image, each with its own files, row and fault."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor

from .. import report, runlog
from ..core.memory import SHORTAGE, is_out_of_memory
from .images import BadImage, Entry, entries
from .kernels import true_kernel
from .options import check_metrics

DERIVED = ('results_root', 'experiments_root', 'log', 'visualization')  # paths that BasicSR fills in


class ImageByImage:
    """``nondist_validation`` for models of BasicSR, to be named before BaseModel.

    A model calls :meth:`start` when it is made, and has :meth:`restore_entry`. A bad image costs one line in the log
    and an entry in ``runlog.failures``; all others are done.
    """

    def start(self) -> None:
        """``logger``, a device that is there, empty tables and the folder for them; the metrics are checked.

        Raises:
            ValueError: a metric of ``val.metrics`` is unknown.
        """
        self.logger = get_root_logger()
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            self.logger.warning(f'num_gpu is {self.opt["num_gpu"]}, but there is no GPU: the processor does the work')
            self.device = torch.device('cpu')
        check_metrics(self.opt)
        path = self.opt['path']
        self.results = Path(path.get('results_root') or path['visualization'])
        self.rows: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.finished = 0  # data sets; two may bear the same name
        self.title = ''
        self.suffix = ''

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """One image from its file to its results; returns its row of ``scores.csv``, less dataset and name."""
        raise NotImplementedError

    @staticmethod
    def rgb(lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] to RGB in [-1, 1]; one channel becomes three equal ones."""
        return (lq * 2 - 1).expand(-1, 3, -1, -1)

    def about_run(self) -> dict[str, Any]:
        """What ``summary.json`` says besides versions, scores and options."""
        return {}

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Rank 0 does all images."""
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Restore every image of a data set, write what comes out, and log the means.

        The loader's data set is read here image by image: within the loader one bad file would end the run. In
        training the tables hold the last validation only, and the pictures bear the iteration in their names.
        """
        dataset = dataloader.dataset
        name = dataset.opt['name']
        todo = list(entries(dataset))
        done: list[dict[str, Any]] = []
        failed: list[str] = []
        self.suffix = str(current_iter) if self.opt['is_train'] else self.opt['val'].get('suffix') or self.opt['name']
        if self.opt['is_train']:
            self.rows = [row for row in self.rows if row['dataset'] != name]
        if not todo:
            runlog.record_failure(f'{name}: there are no images')
        for number, entry in enumerate(todo, 1):
            self.title = f'[{number}/{len(todo)}] {entry.name}'
            try:
                row = {'dataset': name, 'image': entry.name, **self.restore_entry(entry, name, save_img)}
            except Exception as error:  # noqa: BLE001  (the other images are still to be done)
                failed.append(entry.name)
                self._report(entry, error)
                continue
            done.append(row)
            self.rows.append(row)
            report.write_scores(self.results / 'scores.csv', self.rows)
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
        report.write_scores(self.results / 'scores.csv', self.rows)  # the head at least, where nothing was restored
        self.datasets[name] = {'images': len(done), 'failed': failed, 'mean': report.mean_scores(done)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line(name, done, len(failed)))
        self._toolbox_means(name, done, current_iter, tb_logger)
        self.finished += 1
        runlog.end_of_dataset(self.opt, self.finished)

    def kernel_for_scores(self, entry: Entry, place: str | None, template: str, needed: bool = False) -> Tensor | None:
        """The data set's true kernel of this image. A bad file of a kernel that only scores need is reported once.

        Args:
            place, template: where it is, unless the data set has ``dataroot_kernel`` and ``kernel_tmpl``.
            needed: raise the error.
        """
        options = entry.dataset.opt
        try:
            return true_kernel(options.get('dataroot_kernel') or place, options.get('kernel_tmpl') or template,
                               entry.name)
        except ValueError as error:
            if needed:
                raise
            if str(error) not in runlog.failures:
                self.logger.error(f'{error}. Results come without kernel scores')
                runlog.record_failure(str(error))
            return None

    def _report(self, entry: Entry, error: Exception) -> None:
        """One line for an image that could not be done; the traceback too where nobody foresaw the error."""
        reason = (str(error).strip().splitlines() or [''])[0]
        if isinstance(error, BadImage):
            message = reason
        elif isinstance(error, ValueError):
            message = f'{entry.path}: {reason}'
        elif is_out_of_memory(error):
            message = f'{entry.path}: {SHORTAGE}'
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
        return {'name': self.opt['name'], **report.environment(self.device), **self.about_run(),
                'datasets': self.datasets, 'options': options}
