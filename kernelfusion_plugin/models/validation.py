"""What our models do with a data set: image by image, each with its own files, row and fault."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import report, runlog
from ..core.faults import first_line, named
from ..core.memory import SHORTAGE, is_out_of_memory, keep_freed_memory
from ..entries import BadImage, Entry
from ..listing import no_pictures
from ..progress import ProgressLog
from ..sharing import Outcome, parse_shard
from ..true_kernels import ENDINGS, find_kernel, kernel_place, kernel_stem, read_kernel
from .levels import Places
from .options import FileOptions, check_names
from .outputs import Restored, endings, name_fault, scores_and_files
from .ranks import Ranks
from .toolbox import check_metrics, image_metrics
from .work import Work

DERIVED = ('results_root', 'experiments_root', 'log', 'visualization')  # paths that BasicSR fills in


class ImageByImage:
    """``nondist_validation`` and ``dist_validation`` for models of BasicSR, to be named before BaseModel.

    A model calls :meth:`read_options` and :meth:`start` when it is made, and has :meth:`restore_entry`. A bad image
    costs one line in the log and an entry in ``runlog.failures``; all others are done.
    """

    @classmethod
    def places(cls) -> Places:
        """The keys of the model's own sections, see :func:`.levels.places_of`."""
        raise NotImplementedError

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]) -> Any:  # noqa: ANN401  (each model's own)
        """What the model takes from the options, or what is wrong with them. A model checks its sections and its
        networks here as well, and returns them.

        It is called twice: for its errors alone when the options are read, as long as BasicSR has made no folder (it
        renames a finished run's), and when the model is made. So it needs no folder, and leaves BasicSR's logger alone,
        which would never write the run's log file if it were made before that.

        Args:
            opt: BasicSR's options; ``is_train`` is among them, the rank need not be.

        Raises:
            ValueError: a metric of ``val.metrics`` is unknown or cannot be called, or two data sets would write to one
                folder.
        """
        check_metrics(opt)
        check_names(opt)

    def start(self, files: FileOptions) -> None:
        """``logger``, a device that is there, empty tables and the folder for them; ``files``: which are read, written.
        """
        self.files = files
        self.logger = get_root_logger()
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            self.logger.warning(f'num_gpu is {self.opt["num_gpu"]}, but there is no GPU: the processor does the work')
            self.device = torch.device('cpu')
        keep_freed_memory(self.device)
        path = self.opt['path']
        self.results = Path(path.get('results_root') or path['visualization'])
        self.rows: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.all: dict[str, Any] = {}  # what datasets says of each, of all of them together, where there are several
        self.finished = 0  # data sets
        self.together = 1  # so many images, one behind the other, may be restored at the same time
        self.behind: list[Entry] = []  # that may be restored together with the one under way
        self.ranks: Ranks | None = None
        self.title = ''
        self.told: set[str] = set()  # data sets whose missing kernels, or pictures, have been spoken of
        self.suffix = ''
        self.metric_faults: list[str] = []  # of the image that was restored last

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """One image from its file to its results; returns its row of ``scores.csv``, less dataset and name."""
        raise NotImplementedError

    def read_entry(self, entry: Entry) -> dict[str, Any]:
        """The image as :meth:`..entries.Entry.read` gives it."""
        return entry.read(self.scale, self.files.crop_gt, self.files.SECTION)

    @staticmethod
    def rgb(lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] to RGB in [-1, 1]; one channel becomes three equal ones."""
        return (lq * 2 - 1).expand(-1, 3, -1, -1)

    def endings(self, save_img: bool) -> list[str]:
        """Of the files that may be written of an image, what follows its name."""
        return endings(self.suffix) if save_img else []

    def about_run(self) -> dict[str, Any]:
        """What ``summary.json`` says besides versions, scores and options."""
        return {}

    def begin_dataset(self, name: str, images: list[str]) -> None:
        """To be called before the images of a data set are restored."""

    def end_run(self) -> None:
        """To be called behind the last data set, if every image is done."""

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR does it; of several ranks, only those that train need a network in step, and that without GPU
        too.
        """
        if not self.opt['dist']:
            return super().model_to_device(net)
        net = net.to(self.device)
        if not self.is_train:
            return net
        gpus = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        return DistributedDataParallel(net, gpus, find_unused_parameters=self.opt.get('find_unused_parameters', False))

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """The ranks of a test share its images, see :mod:`.ranks`. In training rank 0 does all, as in BasicSR."""
        if not self.opt['is_train']:
            if self.ranks is None:
                self.ranks = Ranks(self)
            self.ranks.validate(dataloader, current_iter, tb_logger, save_img)
        elif self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Restore every image of a data set, write what comes out, and log the means.

        The loader's data set is read here image by image: within the loader one bad file would end the run. In
        training the tables hold the last validation only, and the pictures bear the iteration in their names.
        """
        work = self.open_dataset(dataloader, current_iter)
        if self.opt['is_train']:
            self.rows = [row for row in self.rows if row['dataset'] != work.name]
        for place in range(len(work.entries)):
            outcome = work.outcomes[place] = self.attempt(work, place, save_img)
            if outcome.row is not None:
                self.rows.append(outcome.row)
            self.write_table()
        self.conclude(work, current_iter, tb_logger)
        self.end_dataset()

    def open_dataset(self, dataloader: Any, current_iter: Any) -> Work:  # noqa: ANN401
        """What is to be done: all images, or this process's part (``shard``)."""
        work = Work.of(dataloader.dataset, self.together)
        if not work.entries:
            self._tell_of_no_pictures(work.name, dataloader.dataset.opt)
        if self.opt.get('shard'):
            number, count = parse_shard(self.opt['shard'])
            work = work.part(number, count)
        self.suffix = str(current_iter) if self.opt['is_train'] else self.opt['val'].get('suffix') or self.opt['name']
        if self.opt['rank'] == 0:
            self._tell_of_missing_kernels(work)
        self.begin_dataset(work.name, [entry.name for entry in work.entries])
        return work

    def attempt(self, work: Work, place: int, save_img: bool) -> Outcome:
        """One image; whatever is wrong with it costs this image alone."""
        entry, before, begin = work.entries[place], len(runlog.failures), time.perf_counter()
        self.behind = [other for other in work.behind(place) if self._name_fault(other, save_img) is None]
        self.title = f'[{place + 1}/{len(work.entries)}] {entry.name}'
        try:
            if fault := self._name_fault(entry, save_img):
                raise ValueError(fault)
            row = {'dataset': work.name, 'image': entry.name, **self.restore_entry(entry, work.name, save_img)}
        except Exception as error:  # noqa: BLE001  (the other images are still to be done)
            row = None
            self._report(entry, error)
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()
        return Outcome(row, runlog.failures[before:], seconds=time.perf_counter() - begin)

    def write_table(self) -> None:
        """``scores.csv`` of what is done so far."""
        report.write_scores(self.results / 'scores.csv', self.rows)

    def conclude(self, work: Work, current_iter: Any, tb_logger: Any) -> None:  # noqa: ANN401
        """Tables and means of a data set whose images have all been tried."""
        done, failed = work.rows(), work.failed()
        self.write_table()  # the head at least, where nothing was restored
        self.datasets[work.name] = {'images': len(done), 'failed': failed, 'mean': report.mean_scores(done)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line(work.name, done, len(failed)))
        self._toolbox_means(work.name, done, current_iter, tb_logger)

    def conclude_all(self) -> None:
        """Means over the images of all data sets, whatever their number in each."""
        failed = [f'{name}/{image}' for name, about in self.datasets.items() for image in about['failed']]
        self.all = {'images': len(self.rows), 'failed': failed, 'mean': report.mean_scores(self.rows)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line('all data sets', self.rows, len(failed)))

    def end_dataset(self) -> None:
        """One more data set is through; behind the last one, the run is, or this validation of a training.

        Raises:
            SystemExit: with status 1, behind the last one, if an image failed.
        """
        self.finished += 1
        count = sum(not self.opt['is_train'] or key.startswith('val') for key in self.opt['datasets'])
        if count > 1 and self.finished % count == 0:
            self.conclude_all()
        runlog.end_of_dataset(self.opt, self.finished)
        if not self.opt['is_train'] and self.finished >= len(self.opt['datasets']):
            self.end_run()

    def progress(self, title: str) -> ProgressLog:
        """Shows the steps of an image; of several ranks the first alone draws a bar."""
        return ProgressLog(self.logger, title, None if self.opt['rank'] == 0 else io.StringIO())

    def folder(self, name: str, save_img: bool) -> Path | None:
        """Where the results of a data set, or of an image, go; None where none are written."""
        return Path(self.opt['path']['visualization']) / name if save_img else None

    def written(self, entry: Entry, image: Restored, folder: Path | None, about: Mapping[str, Any]) -> dict[str, Any]:
        """Score an image and write its files; returns its row: scores, ``about``, ``val.metrics``.

        A metric that fails leaves its cell empty: a failure of the run, not of the image, whose files are there.
        """
        scores = scores_and_files(image, folder, self.suffix, self.files.sheet)
        metrics, errors = image_metrics(self.opt['val'].get('metrics'), image.visuals)
        self.metric_faults = [f'{entry.path}: val.metrics.{name}: {_reason(error)}' for name, error in errors.items()]
        for fault in self.metric_faults:
            self.report_metric(fault)
        return {**scores, **about, **{f'val_{name}': metrics.get(name) for name in (*metrics, *errors)}}

    def report_metric(self, fault: str) -> None:
        """One line for a metric that has no value for an image."""
        self.logger.error(f'{fault} (the image itself is done)')
        runlog.record_failure(fault)

    def true_kernel(self, entry: Entry, data: Mapping[str, Any], needed: bool = False) -> Tensor | None:
        """The true kernel (K, K) of an image, if it is known: what its data set gives along, or a file's.

        Args:
            data: the image as it was read; RandomBlurDataset's has ``kernel`` (1, K, K). What others call so may be
                anything, and is passed over if it is no kernel.
            needed: raise the error. A bad file that only scores need is reported once.
        """
        if _is_kernel(data.get('kernel')):
            return data['kernel'][0]
        try:
            return read_kernel(*kernel_place(entry.dataset.opt, vars(self.files)), entry.kernel_name)
        except ValueError as error:
            if needed:
                raise
            if str(error) not in runlog.failures:
                self.logger.error(f'{error}. Results come without kernel scores')
                runlog.record_failure(str(error))
            return None

    def _tell_of_no_pictures(self, name: str, options: Mapping[str, Any]) -> None:
        """One line for a data set without any: where they were looked for."""
        if name in self.told:
            return
        self.told.add(name)
        place = next((options[key] for key in ('meta_info_file', 'dataroot_lq', 'dataroot_gt') if options.get(key)), '')
        fault = f'{name}: {no_pictures(str(place))}'
        runlog.record_failure(fault)
        if self.opt['rank'] == 0:
            self.logger.error(fault)

    def _tell_of_missing_kernels(self, work: Work) -> None:
        """One line where kernels are to be had and some images have none: scores would lack without a word."""
        if not work.entries or work.name in self.told:  # in training it is validated time and again
            return
        self.told.add(work.name)
        place, template = kernel_place(work.entries[0].dataset.opt, vars(self.files))
        if place is None:
            return
        try:
            missing = [entry for entry in work.entries if find_kernel(place, template, entry.kernel_name) is None]
        except ValueError:
            return  # that is said with the first image
        if missing:
            count = f'{len(missing)} of {len(work.entries)} images'
            names = ', '.join(entry.name for entry in missing[:3]) + (', …' if len(missing) > 3 else '')
            wanted = f'{place}/{kernel_stem(template, missing[0].kernel_name)}{ENDINGS[0]}'
            self.logger.warning(f'{work.name}: no true kernel for {count} ({names}): there is no {wanted} (or '
                                f'{", ".join(ENDINGS[1:])}); kernel_tmpl says what files of kernels are called')

    def _name_fault(self, entry: Entry, save_img: bool) -> str | None:
        return name_fault(entry.name, self.endings(save_img), self.results)

    def _report(self, entry: Entry, error: Exception) -> None:
        """One line for an image that could not be done; the traceback too where nobody foresaw the error."""
        message = _reason(error) if isinstance(error, BadImage) else f'{entry.path}: {_reason(error)}'
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
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
        shares = {'ranks': self.ranks.shares()} if self.ranks else {}
        return {'name': self.opt['name'], **report.environment(self.device), **shares, **self.about_run(),
                'datasets': self.datasets, **({'all': self.all} if self.all else {}), 'options': options}


def _reason(error: Exception) -> str:
    """What an error says, in one line; with its type where that is needed to understand it."""
    if isinstance(error, ValueError):
        return first_line(error)
    return SHORTAGE if is_out_of_memory(error) else named(error)


def _is_kernel(value: object) -> bool:
    """Whether it is one kernel (1, K, K) that sums to 1."""
    return (isinstance(value, Tensor) and value.ndim == 3 and value.shape[-1] == value.shape[-2]
            and abs(float(value.sum()) - 1) < 1e-3)
