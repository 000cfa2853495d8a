"""One picture from its file to its results: taken up where it was left, kept if it is done, shown while it forms."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import pictures, report
from .advice import kernel_warning, with_blur_warning
from .atomic import sweep
from .checkpoints import (
    EVERY,
    FILE,
    Checkpoint,
    StopRequest,
    digest,
    drain,
    fingerprint,
    locked,
    read_record,
    write_record,
)
from .core.config import KernelFusionConfig
from .core.inputs import inspected
from .core.restore import Progress, Result, repeatable, restore_steps
from .files import BadPicture, Picture, check_size, printable, read_picture, write_picture
from .live import FRAMES, LIVE, LOCK, STATUS, LiveView
from .progress import ProgressLog

log = logging.getLogger(__name__)

MOST_SHRUNK = 16
PLOT = 'plot.png'  # in the folder of a run that is kept
RUN = (FILE, LOCK, STATUS, LIVE, FRAMES, PLOT)  # what may lie in a run's folder


@dataclass(frozen=True)
class Settings:
    """What holds for all pictures of a command.

    Attributes:
        config: of the core.
        device: where it computes.
        kernel: the known kernel (K, K); None: blind.
        save_run: keep the run's folder, with a plot of its losses and frames for an animation.
        fresh: begin anew, whatever is there.
        shrink: the picture is made small by this factor first, so that a wide blur fits into the kernel's grid.
        every: seconds between two checkpoints.
    """

    config: KernelFusionConfig
    device: torch.device
    kernel: Tensor | None = None
    save_run: bool = False
    fresh: bool = False
    shrink: int = 1
    every: float = EVERY


@dataclass(frozen=True)
class Restoration:
    """The work on one picture.

    Attributes:
        path: the LR picture.
        out: the restored one; what else comes out lies beside it, with the name ``out`` has without its ending.
        settings: see there.
    """

    path: Path
    out: Path
    settings: Settings

    @property
    def name(self) -> str:
        """Decides the random numbers, with the seed: the file's name, wherever it lies and whatever is beside it."""
        return self.path.stem

    @property
    def stem(self) -> str:
        """Of all that is written."""
        return self.out.stem.removesuffix(f'_x{self.settings.config.scale}')

    @property
    def folder(self) -> Path:
        """Of the run while it is under way."""
        return self.out.parent / f'{self.stem}_run'

    @property
    def record(self) -> Path:
        """What tells a finished result."""
        return self.out.parent / f'{self.stem}_restored.json'

    @property
    def results(self) -> list[Path]:
        """All that can come out, but the record."""
        names = ('kernel.npy', 'kernel.png', 'sheet.png')
        return [self.out, *(self.out.parent / f'{self.stem}_{name}' for name in names), *self.region_kernels]

    @property
    def region_kernels(self) -> list[Path]:
        """What comes out only where regions have kernels of their own."""
        return [self.out.parent / f'{self.stem}_kernels{ending}' for ending in ('.npy', '.png')]

    @cached_property
    def key(self) -> str:
        """Fingerprint of the result."""
        s = self.settings
        return fingerprint(digest(self.path), s.config, self.name, s.device, s.kernel, shrink=s.shrink)

    def read(self) -> Picture:
        """The picture, made as small as the settings ask for.

        Raises:
            BadPicture, ValueError: it cannot be read or be restored so, as where too little would be left of it.
        """
        whole = read_picture(self.path)
        picture = whole.smaller(self.settings.shrink)
        try:
            inspected(picture.y, self.settings.config, self.settings.kernel)
        except ValueError as error:
            if picture is whole:
                raise
            height, width = whole.y.shape[-2:]
            before = f'; it was {width} x {height} before --shrink {self.settings.shrink}'
            raise BadPicture(f'{error}{before}') from error
        check_size(self.out, *(n * self.settings.config.scale for n in picture.y.shape[-2:]))
        return picture

    def finished(self) -> bool:
        """Whether the results are there, made of this very picture with these settings, and unharmed."""
        if self.settings.fresh or not (self.record.is_file() and self.path.is_file()):
            return False
        record = read_record(self.record, self.key)
        return record is not None and self.out.name in record['files']  # it may have been another format

    def check_place(self) -> None:
        """Nothing is written over, or removed, that is not known to be ours, even with ``fresh``.

        Known is what the record lists, be it another picture's or version's; and all, while a run is under way, since
        that may have been killed between the writing of a result and of its record.

        Raises:
            ValueError: something else lies in the place of a result.
        """
        if (self.folder / LOCK).exists():
            return
        known = {self.record.name, *listed} if (listed := _listed(self.record)) else set()
        places = [*self.results, self.record, *(() if _is_run(self.folder) else (self.folder,))]
        other = next((path for path in places if path.name not in known and os.path.lexists(path)), None)
        if other is not None:
            raise ValueError(f'{printable(str(other))} would be written over, and is no result of this command: '
                             'move it away or choose another -o')

    def checkpoint(self) -> Checkpoint:
        """Its file in the run's folder."""
        return Checkpoint(self.folder / FILE, self.key, self.settings.every)

    def gone_on_with(self) -> bool:
        """Whether a checkpoint is there that :meth:`run` takes up."""
        return not self.settings.fresh and self.checkpoint().load() is not None

    def run(self, title: str, stop: StopRequest) -> Result | None:
        """Restore the picture and write what comes out; None: another process has done it meanwhile.

        Raises:
            BadPicture, ValueError: the picture cannot be read, or is too small; a file of others would be written over.
            OSError: a result cannot be written. The checkpoint is left, the next call goes on from it.
            Stopped: ``stop`` was asked for, by Ctrl-C or SIGTERM; likewise.
        """
        self.check_place()
        picture = self.read()
        if picture.pages > 1:
            log.warning(f'{title}: has {picture.pages} pages, the first is done')
        known = self.folder.exists()
        with locked(self.folder / LOCK):
            if self.finished():
                self._leave()
                return None
            self._clear()
            bicubic = report.bicubic_picture(picture.y, self.settings.config.scale)
            live = LiveView(self.folder, printable(self.path.name), bicubic, self.settings.save_run)
            try:
                result = self._compute(picture.y, title, live, stop)
            except ValueError:
                if not known and not (self.folder / FILE).exists():  # there is nothing to go on with
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
            self._write(result, picture)
            if self.settings.kernel is None and (
                    warning := kernel_warning(picture.y, result.kernel, '--kernel-size', self._shrink)):
                log.warning(f'{title}: {warning}')
            if self.settings.save_run:
                pictures.save_plot(self.folder / PLOT, result.trace, printable(self.path.name))
                live.say(state='finished', result=self.out.name)
                for name in (FILE, LOCK):
                    (self.folder / name).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        return result

    @property
    def _shrink(self) -> str:
        """The option that makes the picture half as large as it was restored; '' where it goes no further."""
        factor = 2 * self.settings.shrink
        return f'--shrink {factor}' if factor <= MOST_SHRUNK else ''

    def _leave(self) -> None:
        """Take the lock away, and its folder, unless another process has saved its run there."""
        (self.folder / LOCK).unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove what a process leaves that is killed while it writes, and, if wanted, what it would go on from."""
        for folder in (self.folder, self.folder / FRAMES):
            sweep(folder)
        for path in (*self.results, self.record):
            sweep(path.parent, path.name)
        if self.settings.fresh:
            (self.folder / FILE).unlink(missing_ok=True)

    def _compute(self, y: Tensor, title: str, live: LiveView, stop: StopRequest) -> Result:
        s, checkpoint = self.settings, self.checkpoint()
        snapshot = checkpoint.load()
        if snapshot is not None:
            log.info(f'{title}: goes on where it was left')
        show = ProgressLog(log, title)
        steps = restore_steps(y.to(s.device), s.config, name=self.name, kernel=s.kernel, resume=snapshot)
        if snapshot is None:
            steps = self._anew(steps)
            if s.kernel is None:
                steps = with_blur_warning(steps, y.to(s.device), s.config,
                                          lambda warning: log.warning(f'{title}: {warning}'), self._shrink)
        with repeatable(s.device):
            try:
                return drain(steps, checkpoint, (show, live), stop)
            finally:
                show.close()

    def _anew(self, steps: Generator[Progress, None, Result]) -> Generator[Progress, None, Result]:
        """``steps``; behind the first, when nothing can be refused any more, an older run that was saved goes."""
        first = next(steps)
        shutil.rmtree(self.folder / FRAMES, ignore_errors=True)
        (self.folder / PLOT).unlink(missing_ok=True)
        yield first
        return (yield from steps)

    def _write(self, result: Result, like: Picture) -> None:
        """Picture, kernel, sheet; last the record, without which they do not count.

        An older record stays until then: it is void, as sums differ, but tells which files are ours.
        """
        scale = self.settings.config.scale
        for old in self.region_kernels:
            old.unlink(missing_ok=True)
        write_picture(self.out, result.sr, like)
        kernel, kernels = (None if k is None else k.numpy() for k in (result.kernel, result.kernels))
        report.save_kernel(self.out.parent, self.stem, kernel)
        if kernels is not None:
            report.save_region_kernels(self.out.parent, self.stem, kernels)
        bicubic, sr = report.bicubic_picture(like.y, scale), report.to_picture(result.sr)
        title = (f'{printable(self.path.name)}: {like.y.shape[-1]} x {like.y.shape[-2]}, x{scale}, '
                 f'{result.config.solver}, {result.config.preset}')
        pictures.save_sheet(self.out.parent / f'{self.stem}_sheet.png',
                            pictures.sheet_panels(bicubic, sr, None, kernel, None, {}, kernels=kernels), title)
        written = [path for path in self.results if kernels is not None or path not in self.region_kernels]
        names = {path.name for path in written}
        earlier = [name for name in _listed(self.record) if name not in names and (self.out.parent / name).exists()]
        grid = [1, 1] if kernels is None else list(kernels.shape[:2])
        write_record(self.record, self.key, written, picture=self.path.name, seconds=result.seconds, regions=grid,
                     surprise=result.surprise, shrink=self.settings.shrink, config=result.config.to_dict(),
                     earlier=earlier, **report.environment(self.settings.device))


class Origin(NamedTuple):
    """With which settings a result came about; see Settings."""

    scale: int
    shrink: int


def came_about(record: Path, file: Path) -> Origin | None:
    """How ``file`` came about, if that is a record of it, and it is as it was written."""
    try:
        about = json.loads(record.read_text(encoding='utf-8'))
        origin = Origin(about['config']['scale'], about.get('shrink', 1))
        return origin if about['files'][file.name] == digest(file) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _listed(record: Path) -> list[str]:
    """Names of the files that came out with a record, and before it in the same place, as at another scale; [] where it
    is none of ours.
    """
    try:
        about = json.loads(record.read_text(encoding='utf-8'))
        return [*about['files'], *about.get('earlier', ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _is_run(folder: Path) -> bool:
    """Whether a run's folder, or what is left of one, may lie there."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return not names or any(name in RUN or name.endswith('.tmp') for name in names)
