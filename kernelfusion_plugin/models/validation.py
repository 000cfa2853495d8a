"""How our models process a data set: image by image, each with its own files, row and errors."""

from __future__ import annotations

import io
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import runlog
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
from .tables import Tables
from .toolbox import check_metrics, image_metrics
from .work import Work


class ImageByImage(Tables):
    """Mixin with ``nondist_validation`` and ``dist_validation`` for BasicSR models; list it before BaseModel.

    A model calls :meth:`read_options` and :meth:`start` in its constructor and implements :meth:`restore_entry`. A bad
    image is logged in one line, recorded in ``runlog.failures`` and skipped.
    """

    PLACES: ClassVar[Places]  # the keys of the model's own sections, see :func:`.levels.places_of`

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]) -> Any:  # noqa: ANN401  (each model's own)
        """Check the options. Models extend this to check and return their sections and networks.

        It is called twice: first only for its errors, when the options are read and before BasicSR creates any folder
        (renaming that of an earlier run), and again in the constructor, since networks to be trained must be built
        after BasicSR has set the random seed. So it must not need a folder, nor create BasicSR's logger, which would
        then never write the run's log file.

        Args:
            opt: BasicSR's options, including ``is_train``; the rank may be missing.

        Raises:
            ValueError: a metric of ``val.metrics`` is unknown or cannot be called, or two data sets would write to the
                same folder.
        """
        check_metrics(opt)
        check_names(opt)

    def start(self, files: FileOptions) -> None:
        """Set up logger, device, results folder and empty tables; ``files``: which files are read and written."""
        self.files = files
        self.logger = get_root_logger()
        if self.device.type == 'cuda' and not torch.cuda.is_available():
            self.logger.warning(f'num_gpu is {self.opt["num_gpu"]}, but there is no GPU: using the CPU')
            self.device = torch.device('cpu')
        keep_freed_memory(self.device)
        path = self.opt['path']
        self.start_tables(Path(path.get('results_root') or path['visualization']))
        self.finished = 0  # number of data sets done
        self.together = 1  # number of consecutive images that may be restored together
        self.behind: list[Entry] = []  # following images that may be restored with the current one
        self.title = ''
        self.told: set[str] = set()  # data sets whose missing kernels or pictures have been reported
        self.suffix = ''
        self.metric_faults: list[str] = []  # of the last restored image

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """Restore one image, write its results, and return its row of ``scores.csv`` without data set and name."""
        raise NotImplementedError

    def read_entry(self, entry: Entry) -> dict[str, Any]:
        """The image as returned by :meth:`..entries.Entry.read`."""
        return entry.read(self.scale, self.files.crop_gt, self.files.SECTION)

    @staticmethod
    def rgb(lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] to RGB in [-1, 1]; a single channel is replicated."""
        return (lq * 2 - 1).expand(-1, 3, -1, -1)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch: ``lq`` (B, C, h, w) in [0, 1] and, if known, ``gt`` and the true ``kernel`` (B, K, K)."""
        self.lq, self.gt, self.k_true = (None if data.get(key) is None else data[key].to(self.device)
                                         for key in ('lq', 'gt', 'kernel'))
        self.output = self.kernel = None

    def set_result(self, sr: Tensor, kernel: Tensor | None) -> None:
        """Set ``output``, sr (B, 3, s·h, s·w) in [0, 1] with as many channels as lq, and ``kernel``."""
        self.output = sr.mean(dim=1, keepdim=True) if self.lq.shape[1] == 1 else sr
        self.kernel = kernel

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """``lq``, ``result``, (B, C, H, W) RGB in [0, 1], and, if there are any, ``gt`` and ``kernel``; on the CPU."""
        known = {'lq': self.lq, 'result': self.output, 'gt': self.gt, 'kernel': self.kernel}
        return OrderedDict((name, value.detach().cpu()) for name, value in known.items() if value is not None)

    def endings(self, save_img: bool) -> list[str]:
        """Name endings, after the image's name, of the files that may be written."""
        return endings(self.suffix) if save_img else []

    def begin_dataset(self, name: str, images: list[str]) -> None:
        """Called before the images of a data set are restored."""

    def end_run(self) -> None:
        """Called after the last data set, if every image is done."""

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As in BasicSR; but with several ranks, synchronise the network only for training, and also on CPUs."""
        if not self.opt['dist']:
            return super().model_to_device(net)
        net = net.to(self.device)
        if not self.is_train:
            return net
        gpus = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        return DistributedDataParallel(net, gpus, find_unused_parameters=self.opt.get('find_unused_parameters', False))

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """In a test, ranks share the images, see :mod:`.ranks`; in training, rank 0 does them all, as in BasicSR."""
        if not self.opt['is_train']:
            if self.ranks is None:
                self.ranks = Ranks(self)
            self.ranks.validate(dataloader, current_iter, tb_logger, save_img)
        elif self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:  # noqa: ANN401
        """Restore every image of a data set, write the results, and log the means.

        Images are read here one by one, bypassing the loader, in which one bad file would end the run. In training, the
        tables hold only the last validation, and the iteration is part of the pictures' names.
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
        """The images to restore: all of them, or this process's ``shard``."""
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
        """Restore one image; any error is confined to it."""
        entry, before, begin = work.entries[place], len(runlog.failures), time.perf_counter()
        self.behind = [other for other in work.behind(place) if self._name_fault(other, save_img) is None]
        self.title = f'[{place + 1}/{len(work.entries)}] {entry.name}'
        try:
            if fault := self._name_fault(entry, save_img):
                raise ValueError(fault)
            row = {'dataset': work.name, 'image': entry.name, **self.restore_entry(entry, work.name, save_img)}
        except Exception as error:  # noqa: BLE001  (go on with the other images)
            row = None
            self._report(entry, error)
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()
        return Outcome(row, runlog.failures[before:], seconds=time.perf_counter() - begin)

    def end_dataset(self) -> None:
        """Called after each data set; after the last one, finish the run, or the validation if training.

        Raises:
            SystemExit: with status 1, after the last data set, if an image failed.
        """
        self.finished += 1
        count = sum(not self.opt['is_train'] or key.startswith('val') for key in self.opt['datasets'])
        if count > 1 and self.finished % count == 0:
            self.conclude_all()
        runlog.end_of_dataset(self.opt, self.finished)
        if not self.opt['is_train'] and self.finished >= len(self.opt['datasets']):
            self.end_run()

    def progress(self, title: str) -> ProgressLog:
        """Progress display for an image; only rank 0 draws a bar."""
        return ProgressLog(self.logger, title, None if self.opt['rank'] == 0 else io.StringIO())

    def folder(self, name: str, save_img: bool) -> Path | None:
        """Results folder of a data set; None if results are not saved."""
        return Path(self.opt['path']['visualization']) / name if save_img else None

    def written(self, entry: Entry, image: Restored, folder: Path | None, about: Mapping[str, Any]) -> dict[str, Any]:
        """Score an image, write its files, and return its row: scores, ``about``, ``val.metrics``.

        A metric that fails leaves its cell empty; it counts as a failure of the run, not of the image.
        """
        scores = scores_and_files(image, folder, self.suffix, self.files.sheet)
        metrics, errors = image_metrics(self.opt['val'].get('metrics'), image.visuals)
        self.metric_faults = [f'{entry.path}: val.metrics.{name}: {_reason(error)}' for name, error in errors.items()]
        for fault in self.metric_faults:
            self.report_metric(fault)
        return {**scores, **about, **{f'val_{name}': metrics.get(name) for name in (*metrics, *errors)}}

    def report_metric(self, fault: str) -> None:
        """Log and record, in one line, a metric that failed for an image."""
        self.logger.error(f'{fault} (the image itself was restored)')
        runlog.record_failure(fault)

    def true_kernel(self, entry: Entry, data: Mapping[str, Any], needed: bool = False) -> Tensor | None:
        """The true kernel (K, K) of an image, if known: from its data set or from a file.

        Args:
            data: the image as read. RandomBlurDataset adds ``kernel`` (1, K, K); in other data sets the key may mean
                something else, and is ignored unless it is a kernel.
            needed: raise errors. If the kernel is only for scores, a bad file is reported once instead.
        """
        if _is_kernel(data.get('kernel')):
            return data['kernel'][0]
        try:
            return read_kernel(*kernel_place(entry.dataset.opt, vars(self.files)), entry.kernel_name)
        except ValueError as error:
            if needed:
                raise
            if str(error) not in runlog.failures:
                self.logger.error(f'{error}. Results will lack kernel scores')
                runlog.record_failure(str(error))
            return None

    def _tell_of_no_pictures(self, name: str, options: Mapping[str, Any]) -> None:
        """Report in one line a data set without pictures, and where they were looked for."""
        if name in self.told:
            return
        self.told.add(name)
        place = next((options[key] for key in ('meta_info_file', 'dataroot_lq', 'dataroot_gt') if options.get(key)), '')
        fault = f'{name}: {no_pictures(str(place))}'
        runlog.record_failure(fault)
        if self.opt['rank'] == 0:
            self.logger.error(fault)

    def _tell_of_missing_kernels(self, work: Work) -> None:
        """Warn if kernels are configured but some images lack one; their scores would silently be missing."""
        if not work.entries or work.name in self.told:  # training validates repeatedly
            return
        self.told.add(work.name)
        place, template = kernel_place(work.entries[0].dataset.opt, vars(self.files))
        if place is None:
            return
        try:
            missing = [entry for entry in work.entries if find_kernel(place, template, entry.kernel_name) is None]
        except ValueError:
            return  # reported with the first image
        if missing:
            count = f'{len(missing)} of {len(work.entries)} images'
            names = ', '.join(entry.name for entry in missing[:3]) + (', …' if len(missing) > 3 else '')
            wanted = f'{place}/{kernel_stem(template, missing[0].kernel_name)}{ENDINGS[0]}'
            self.logger.warning(f'{work.name}: no true kernel for {count} ({names}): there is no {wanted} (or '
                                f'{", ".join(ENDINGS[1:])}); kernel_tmpl sets the names of kernel files')

    def _name_fault(self, entry: Entry, save_img: bool) -> str | None:
        return name_fault(entry.name, self.endings(save_img), self.results)

    def _report(self, entry: Entry, error: Exception) -> None:
        """Log and record, in one line, an image that failed; with a traceback if the error is unexpected."""
        message = _reason(error) if isinstance(error, BadImage) else f'{entry.path}: {_reason(error)}'
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
            self.logger.error(traceback.format_exc())
        self.logger.error(message + runlog.SKIPPED)
        runlog.record_failure(message)

def _reason(error: Exception) -> str:
    """An error's message in one line, with its type unless it is a ValueError."""
    if isinstance(error, ValueError):
        return first_line(error)
    return SHORTAGE if is_out_of_memory(error) else named(error)


def _is_kernel(value: object) -> bool:
    """Whether ``value`` is a single kernel (1, K, K) that sums to 1."""
    return (isinstance(value, Tensor) and value.ndim == 3 and value.shape[-1] == value.shape[-2]
            and abs(float(value.sum()) - 1) < 1e-3)
