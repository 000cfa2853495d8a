"""``RestorationModel``: base of the models that restore each image by itself, without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.models.base_model import BaseModel
from torch import Tensor

from .. import pictures
from ..entries import Entry
from ..true_kernels import read_kernel
from .options import FileOptions
from .outputs import Restored, written_files
from .validation import ImageByImage


@dataclass(frozen=True)
class MethodResult:
    """What a method makes of one image.

    Attributes:
        sr: (1, 3, s·h, s·w) in [-1, 1].
        kernel: (K, K) on the CPU, found or given; None if the method has none.
        seconds: for ``phase1`` and ``phase2``.
        method: name on sheets.
        settings: further columns of ``scores.csv``, such as seed, solver and preset.
        trace: rows for the run's plot, see :func:`..pictures.save_plot`; None: no plot.
        kernels: kernels of the regions (R, C, K, K) on the CPU, if there are several.
    """

    sr: Tensor
    kernel: Tensor | None
    seconds: Mapping[str, float]
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    trace: list[dict[str, Any]] | None = None
    kernels: Tensor | None = None


class RestorationModel(ImageByImage, BaseModel, ABC):
    """Test-only BasicSR model that handles scores, files and errors; a subclass implements :meth:`restore`.

    Works with ``basicsr/test.py`` and any data set that has ``paths`` (PairedImageDataset, SingleImageDataset, ours):
    images of any size, from disk or LMDB, with true kernels from ``dataroot_kernel`` and ``kernel_tmpl``.

    Results go to ``results/<name>``, see README. A bad image is logged in one line, recorded in ``runlog.failures``
    (exit status 1) and skipped.

    Args:
        opt: BasicSR's options.
        scale: s.
        glue: which files are read and written.
    """

    def __init__(self, opt: dict[str, Any], scale: int, glue: FileOptions) -> None:
        super().__init__(opt)
        self.start(glue)
        self.scale = scale

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """See :class:`.validation.ImageByImage`.

        Raises:
            ValueError: as there; also for training, since there is nothing to train.
        """
        if opt['is_train']:
            raise ValueError(f'{cls.__name__} works on each image by itself, in basicsr/test.py: there is nothing to '
                             'train')
        super().read_options(opt)

    @abstractmethod
    def restore(self, y: Tensor) -> MethodResult:
        """Restore y (1, 3, h, w) in [-1, 1]; ``self.name`` and ``self.k_true`` are set.

        Raises:
            ValueError: this image cannot be restored; one line.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings of the method for ``summary.json``, as plain values."""

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch of one image: ``lq`` (1, C, h, w) in [0, 1], ``lq_path`` and, if known, ``gt``, ``name``,
        ``kernel_name`` (which identifies the kernel's file) and the true ``kernel`` (K, K).
        """
        if data['lq'].ndim != 4 or data['lq'].shape[0] != 1:
            raise ValueError(f'{type(self).__name__} takes one image at a time, (1, C, h, w); '
                             f'got {tuple(data["lq"].shape)}')
        super().feed_data({'lq': data['lq']})
        self.gt, self.k_true = data.get('gt'), data.get('kernel')  # both stay on the CPU
        self.name = data.get('name') or Path(data['lq_path'][0] if 'lq_path' in data else '').stem
        self.kernel_name = data.get('kernel_name') or self.name
        self.result = None

    def test(self) -> None:
        """Restore the current image; sets ``result``, ``output`` and ``kernel`` (K, K)."""
        self.result = self.restore(self.rgb(self.lq))
        self.set_result((self.result.sr + 1) / 2, self.result.kernel)

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """Restore one image, write its results, and return its row of ``scores.csv``."""
        data = self.read_entry(entry)
        k_true = self.true_kernel(entry, data, needed=self._known is True)
        self.feed_data({**data, 'name': entry.name, 'kernel_name': entry.kernel_name, 'kernel': k_true})
        done = self.done_before(dataset)
        if done is not None:
            return done
        self.test()
        visuals, found = self.get_current_visuals(), self.result
        folder = self.folder(dataset, save_img)
        about = [str(found.settings[key]) for key in ('solver', 'preset') if key in found.settings]
        image = Restored(entry.name, visuals, self.scale, ', '.join([f'x{self.scale}', *about]), found.kernel, k_true,
                         found.method, kernels=found.kernels)
        seconds = {f'seconds_{phase}': float(value) for phase, value in found.seconds.items()}
        row = self.written(entry, image, folder, {**seconds, **found.settings})
        if folder is not None and found.trace is not None:
            pictures.save_plot(folder / f'{entry.name}_run.png', found.trace, entry.name)
        self.note_done(dataset, written_files(folder, entry.name, self.suffix), row)
        self.lq = self.gt = self.output = self.kernel = self.result = None
        return row

    def done_before(self, dataset: str) -> dict[str, Any] | None:
        """Row of the current image if it is already done, else None."""
        return None

    def note_done(self, dataset: str, files: list[Path], row: dict[str, Any]) -> None:
        """Called when the current image is done, with its files and row; ``metric_faults`` lists failed metrics."""

    def about_run(self) -> dict[str, Any]:
        """``config`` of ``summary.json``."""
        return {'config': self.settings()}

    @property
    def _known(self) -> bool | str:
        """The option ``known_kernel`` of methods that have it: true, false or a path to kernels."""
        return getattr(self.files, 'known_kernel', False)

    def known_kernel(self) -> Tensor | None:
        """The kernel (K, K) to restore with; None: blind.

        Raises:
            ValueError: ``known_kernel`` asks for one, but there is none for this image.
        """
        if self._known is False:
            return None
        if self._known is True:
            kernel = self.k_true
        else:
            kernel = read_kernel(self._known, self.files.kernel_tmpl, self.kernel_name)
        if kernel is None:
            raise ValueError(f'known_kernel is {self._known!r}, but there is no kernel for the image {self.name!r}')
        return kernel
