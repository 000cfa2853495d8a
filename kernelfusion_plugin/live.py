"""The folder of a run in progress: its status, the current picture and kernel, and frames for an animation.

    status.json     phase, step, seconds left; updated every second
    live.png        x0_hat and the kernel; updated every few seconds
    frames/*.png    live.png at about a hundred steps of Phase 2, if requested
    lock            held by the running process
    checkpoint.pt   see ``checkpoints``

In the results folder, ``.restore-….lock`` is held by each ``kernelfusion restore`` that writes there, from its first
picture to its last.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import pictures, report
from .atomic import write_atomically, write_text_atomically
from .checkpoints import is_locked, locked, read_json
from .core.restore import Progress
from .files import printable
from .progress import label

log = logging.getLogger(__name__)

COUNT = 100  # approximate number of frames of an animation
STATUS, LIVE, LOCK, FRAMES = 'status.json', 'live.png', 'lock', 'frames'
MADE_BY = 'kernelfusion watch'  # comment in the files of our animations
COMMANDS = '.restore-*.lock'  # in a results folder


class LiveView:
    """Writes status and live picture to the run folder during a run.

    Args:
        folder: the run folder.
        name: the image's name.
        start: the picture shown before Phase 2, uint8 RGB (H, W, 3).
        frames: keep frames for an animation.
    """

    def __init__(self, folder: Path, name: str, start: np.ndarray, frames: bool = False) -> None:
        self.folder, self.name, self.frames = folder, name, frames
        self._status_due = self._picture_due = -float('inf')
        self._picture, self._kernel = pictures.whole(start), None

    def __call__(self, progress: Progress) -> None:
        """Show a step, if an update is due. If it cannot be written, a warning is logged and the run goes on."""
        try:
            self._show(progress)
        except OSError as error:
            log.warning(f'{printable(str(self.folder))}: the live picture cannot be written: {error.strerror or error}')
            self._status_due = self._picture_due = time.monotonic() + 60

    def _show(self, progress: Progress) -> None:
        now = time.monotonic()
        last = progress.step == progress.total
        if last or now >= self._status_due:
            self.say(phase=progress.phase, step=progress.step, total=progress.total, loss=progress.loss,
                     seconds=round(progress.seconds, 1), left=round(progress.eta, 1))
            self._status_due = now + 1
        stride = -(-progress.total // COUNT)
        frame = self.frames and progress.kernel is not None and (last or progress.step % stride == 0)
        if not (frame or last or now >= self._picture_due):
            return
        if progress.x0_hat is not None:
            self._picture, self._kernel = pictures.whole(report.to_picture(progress.x0_hat)), _kernel_picture(progress)
        sheet = self._sheet(progress)
        write_atomically(self.folder / LIVE, lambda file: sheet.save(file, format='PNG'), lasting=False)
        if frame:
            path = self.folder / FRAMES / f'{progress.step:06d}.png'
            write_atomically(path, lambda file: sheet.save(file, format='PNG'), lasting=False)
        self._picture_due = now + max(2.0, 20 * (time.monotonic() - now))

    def say(self, **status: Any) -> None:  # noqa: ANN401  (as JSON takes it)
        """Write ``status.json``."""
        text = json.dumps({'name': self.name, **status}) + '\n'
        write_text_atomically(self.folder / STATUS, text, lasting=False)

    def _sheet(self, progress: Progress) -> Image.Image:
        step = f'{label(progress.phase)}, step {progress.step}/{progress.total}'
        panels = [pictures.Panel('bicubic' if self._kernel is None else 'x0_hat', step, self._picture)]
        if self._kernel is not None:
            panels.append(pictures.Panel('kernel', '', self._kernel, whole=False))
        return pictures.draw_sheet(panels, self.name)


@contextmanager
def at_work(results: Path) -> Iterator[None]:
    """While the block runs, :func:`is_at_work` tells of it. Removes what killed processes have left of that."""
    for path in results.glob(COMMANDS):
        if not is_locked(path):
            path.unlink(missing_ok=True)
    path = results / COMMANDS.replace('*', secrets.token_hex(8))
    with locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_at_work(results: Path) -> bool:
    """Whether a command restores pictures into a folder, perhaps between two of them."""
    return any(is_locked(path) for path in results.glob(COMMANDS))


def find_run(place: Path) -> Path:
    """The run folder: ``place`` itself, or the most recently written one in it.

    Raises:
        ValueError: there is none.
    """
    run = latest_run(place)
    if run is None:
        raise ValueError(f'{place}: no run here. During a run there is a folder NAME_run next to its result, '
                         'which --save-run keeps')
    return run


def latest_run(place: Path) -> Path | None:
    """As :func:`find_run`; None if there is none."""
    written = {}
    for path in (place, *sorted(place.glob('*_run'))):
        with suppress(OSError):  # no run, or one that has just ended
            written[path] = (path / STATUS).stat().st_mtime
    return max(written, key=written.__getitem__, default=None)


def read_status(folder: Path) -> dict[str, Any] | None:
    """Contents of ``status.json``, plus ``active``: whether a process is running; None without the file."""
    active = is_locked(folder / LOCK)  # first: a run that has ended leaves no status, or its last
    status = read_json(folder / STATUS)
    return {**status, 'active': active} if status else None


def follow(place: Path, interval: float = 2.0, once: bool = False) -> Iterator[str]:
    """Say in lines how the restoring goes on, until it is over.

    Args:
        place: a folder NAME_run, or the folder of results, in which one picture may follow another.
        interval: seconds between two checks.
        once: check only once.

    Raises:
        ValueError: there is no run, and no command at work that may begin one.
    """
    alone = any((place / name).exists() for name in (STATUS, LOCK))  # a folder NAME_run
    run, said = None, ''
    while True:
        # asked first, so that nothing that the last run has written is missed
        working = is_locked(place / LOCK) if alone else is_at_work(place)
        latest = run if run is not None and is_locked(run / LOCK) else latest_run(place)
        status = None if latest is None else read_status(latest)
        active = status is not None and status['active']
        if status is None and not working and not said:
            find_run(place)
        line = '' if not working else 'no step done yet' if run is None else 'between two pictures'
        if status is not None and (active or not working):
            if latest != run:
                yield f'live picture: {latest / LIVE}'
            run, line = latest, status_line(status)
        if line and line != said:
            yield line
            said = line
        if not active and not working:
            unfinished = status is not None and status.get('state') != 'finished'
            yield 'no process is running: repeat the restore command to resume' if unfinished else 'the run has ended'
            return
        if once:
            return
        time.sleep(interval)


def status_line(status: dict[str, Any]) -> str:
    """The status as one line."""
    if 'phase' not in status:
        return f'{status.get("name")}: {status.get("state", "no step done yet")}'
    left = datetime.timedelta(seconds=round(status.get('left', 0)))
    return (f'{status.get("name")}: {label(status["phase"])}, step {status.get("step")}/'
            f'{status.get("total")}, {left} left in it, loss {status.get("loss", 0):.4g}')


def save_animation(folder: Path, out: Path) -> int:
    """Save the frames of a saved run as GIF or, for the extensions .png and .apng, animated PNG; returns their number.

    Raises:
        ValueError: there are no frames, the extension is not supported, or ``out`` is a file that is not one of our
            animations and would be overwritten.
    """
    kinds = {'.gif': 'GIF', '.png': 'PNG', '.apng': 'PNG'}
    if out.suffix.lower() not in kinds:
        raise ValueError(f'{out}: an animation must end in .gif, .png or .apng')
    if os.path.lexists(out) and not _is_our_animation(out):
        raise ValueError(f'{out} would be overwritten, but is not an animation of this command: move it away or give '
                         'another --animation')
    paths = sorted((folder / FRAMES).glob('*.png'))
    if not paths:
        raise ValueError(f'{folder}: no frames: only runs with --save-run keep them')
    frames = [Image.open(path).convert('RGB') for path in paths]
    size = tuple(max(frame.size[axis] for frame in frames) for axis in (0, 1))
    for index, frame in enumerate(frames):  # the sheet's width depends on the title
        frames[index] = Image.new('RGB', size, pictures.PAPER)
        frames[index].paste(frame)
    times = [80] * (len(frames) - 1) + [2000]
    about = PngInfo()
    about.add_text('comment', MADE_BY)
    write_atomically(out, lambda file: frames[0].save(file, format=kinds[out.suffix.lower()], save_all=True,
                                                      append_images=frames[1:], duration=times, loop=0,
                                                      comment=MADE_BY, pnginfo=about))  # of GIF, and of PNG
    return len(frames)


def _is_our_animation(path: Path) -> bool:
    with suppress(Exception), Image.open(path) as image:  # PIL raises anything on files that are no pictures
        return image.info.get('comment') in (MADE_BY, MADE_BY.encode())
    return False


def _kernel_picture(progress: Progress) -> np.ndarray:
    kernel, kernels = (None if k is None else k.detach().float().cpu().numpy()
                       for k in (progress.kernel, progress.kernels))
    return report.kernel_picture(kernel) if kernels is None else report.region_kernels_picture(kernels)
