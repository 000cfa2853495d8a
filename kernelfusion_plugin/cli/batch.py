"""The pictures of a ``restore`` command: what is known before the work, the work, and how each picture ended."""

from __future__ import annotations

import errno
import logging
import math
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from torch import Tensor

from ..checkpoints import Stopped, StopRequest
from ..core.faults import first_line, named
from ..core.memory import SHORTAGE, is_out_of_memory
from ..core.regional_degradation import AUTO, choose_grid
from ..core.restore import plan_memory
from ..estimate import measure_pace
from ..files import BadPicture, printable
from ..progress import label
from ..restoration import Restoration, Settings

log = logging.getLogger(__name__)


@dataclass
class Survey:
    """What is known about the unfinished pictures before the work begins.

    Attributes:
        first: y of the first readable picture, or None.
        sizes: (h, w) of each readable picture.
        faults: why each of the others cannot be restored.
    """

    first: Tensor | None = None
    sizes: list[tuple[Restoration, tuple[int, int]]] = field(default_factory=list)
    faults: list[tuple[Restoration, Exception]] = field(default_factory=list)


def survey(todo: list[Restoration]) -> Survey:
    """Read every picture once."""
    found = Survey()
    for one in todo:
        try:
            if one.finished():
                continue
            one.check_place()
            y = one.read().y
        except (ValueError, OSError) as error:
            found.faults.append((one, error))  # reported in its turn
            continue
        found.first = y if found.first is None else found.first
        found.sizes.append((one, tuple(y.shape[-2:])))
    return found


def announcement(todo: list[Restoration], found: Survey) -> Iterator[str]:
    """What will be done and with which settings; then the approximate time, from a few timed steps."""
    settings, sizes = todo[0].settings, [size for _, size in found.sizes]
    config = settings.config
    what = f'{len(todo)} pictures' if len(todo) > 1 else printable(todo[0].path.name)
    if len(sizes) == 1:
        height, width = sizes[0]
        what += f', {width} x {height} to {width * config.scale} x {height * config.scale}'
        if config.regions == AUTO and settings.kernel is None:
            what += ', {} x {} regions'.format(*choose_grid(AUTO, sizes[0]))
    place = printable(str(todo[0].out if len(todo) == 1 else todo[0].out.parent))
    yield (f'{what}: x{config.scale}, solver {config.solver}, preset {config.preset}, on {settings.device}, into '
           f'{place}')
    if found.first is None:
        return
    pace = measure_pace(found.first.to(settings.device), config, settings.kernel)
    seconds = [pace.seconds(size) for size in sizes]
    phases = {phase: sum(one[phase] for one in seconds) for phase in seconds[0]}
    parts = ', '.join(f'{label(phase)} {_round(value)}' for phase, value in phases.items())
    yield (f'about {_round(sum(phases.values()))}, estimated from a few timed steps: {parts}'
           + _memory(max(sizes, key=math.prod), settings))


def restore_all(todo: list[Restoration]) -> int:
    """Restore the pictures one by one, log each outcome, and return the exit status."""
    kept, failed, start, title = 0, 0, time.monotonic(), ''
    stop = StopRequest(lambda: log.info(f'{title}: stopping after this step; press Ctrl-C again to stop at once'))
    for number, one in enumerate(todo, 1):
        title = (f'[{number}/{len(todo)}] ' if len(todo) > 1 else '') + printable(one.path.name)
        try:
            with stop:
                if stop.number is not None:  # requested in the last step of the previous picture
                    raise Stopped(stop.number)
                result = None if one.finished() else one.run(title, stop)
            if result is None:
                late = 'too late for --save-run: ' if one.settings.save_run and not one.folder.is_dir() else ''
                log.info(f'{title}: already done, {printable(str(one.out))} is kept ({late}--fresh restores it again)')
                kept += 1
            else:
                log.info(f'{title}: {printable(str(one.out))}, {sum(result.seconds.values()):.0f} s')
        except Stopped as stopped:
            log.info(f'{title}: stopped; {same_command(one.settings)} resumes from here')
            return 128 + stopped.signal
        except KeyboardInterrupt:
            log.info(f'{title}: stopped at once; {same_command(one.settings)} resumes from the last checkpoint')
            return 130
        except Exception as error:  # noqa: BLE001  (go on with the other pictures)
            failed += 1
            log.error(f'{title}: {reason(one, error)}')
    done = len(todo) - kept - failed
    counts = {'done': done, 'kept': kept, 'failed': failed}
    if len(todo) > 1:
        took = timedelta(seconds=round(time.monotonic() - start))
        log.info(', '.join(f'{count} {what}' for what, count in counts.items() if count) + f', {took}')
    return 1 if failed else 0


def same_command(settings: Settings) -> str:
    """The words for the command that resumes a stopped run."""
    return 'the same command' + (' without --fresh' if settings.fresh else '')


def rehearse(found: Survey) -> int:
    """For --dry-run: log which pictures would resume and which would fail; return the exit status to expect."""
    faults = list(found.faults)
    if begun := [printable(one.path.name) for one, _ in found.sizes if one.gone_on_with()]:
        log.info(f'{", ".join(begun)}: would resume from a checkpoint, so less time is left than that')
    for one, size in found.sizes:
        try:
            plan_memory(size, one.settings.device, one.settings.config, one.settings.kernel is not None)
        except ValueError as error:
            faults.append((one, error))
    for one, error in faults:
        log.error(f'{printable(one.path.name)}: {reason(one, error)}')
    return 1 if faults else 0


def reason(one: Restoration, error: Exception) -> str:
    """Why a picture failed, in one line."""
    if isinstance(error, (BadPicture, ValueError)):
        return printable(str(error).strip().removeprefix(f'{one.path}: '))
    later = f'; {same_command(one.settings)} resumes from here'
    if isinstance(error, OSError):
        where = f'{printable(str(error.filename))}: ' if error.filename else ''
        return (f'{where}{error.strerror or first_line(error)}'
                + (later if error.errno in (errno.ENOSPC, errno.EDQUOT) else ''))
    if is_out_of_memory(error):
        return SHORTAGE + later
    if os.environ.get('KERNELFUSION_DEBUG') == '1':
        log.error(traceback.format_exc())
    return f'{named(error)} (a bug in the program: set KERNELFUSION_DEBUG=1 for the traceback)'


def _memory(size: tuple[int, int], settings: Settings) -> str:
    """The memory that a picture of size (h, w) needs, as the end of a line."""
    try:
        plan = plan_memory(size, settings.device, settings.config, settings.kernel is not None)
    except ValueError:
        return ''  # reported in its turn
    return f'; up to {plan.need / 1e9:.1f} GB of memory'


def _round(seconds: float) -> str:
    """A duration with two significant digits, as suits an estimate."""
    size, unit = (1, 's') if seconds < 90 else (60, 'min') if seconds < 5400 else (3600, 'h')
    return f'{float(f"{seconds / size:.2g}"):g} {unit}'  # 120 h, not 1.2e+02 h
