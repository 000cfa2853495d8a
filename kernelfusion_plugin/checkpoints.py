"""Checkpoints to resume a run after any interruption, records of finished results, locks and stop requests."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch import Tensor

from .atomic import write_atomically, write_text_atomically
from .core.config import KernelFusionConfig
from .core.restore import Progress, Result
from .core.texture_prior import weights_digest
from .files import printable

log = logging.getLogger(__name__)

FILE = 'checkpoint.pt'
EVERY = 60.0  # seconds between two checkpoints
INDIFFERENT = ('memory_limit', 'resume', 'checkpoint_every')  # settings that do not affect the result
SHARE = 0.05  # upper bound of the fraction of time spent writing checkpoints
PATIENCE = 10  # attempts to get a lock, 0.05 s apart


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that affect the result. Others, such as ``memory_limit``, may change when a run is resumed."""
    return {key: value for key, value in settings.items() if key not in INDIFFERENT}


@functools.cache
def code_digest() -> str:
    """sha256 of the package's code, so that results of another version are not reused."""
    total = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob('*.py')):
        total.update(os.fsencode(path.relative_to(root)) + b'\0' + path.read_bytes() + b'\0')
    return total.hexdigest()


def fingerprint(image: str, config: KernelFusionConfig, name: str, device: torch.device, kernel: Tensor | None = None,
                **more: Any) -> str:  # noqa: ANN401  (anything that JSON takes)
    """sha256 of all that determines a result: runs with equal fingerprints on one machine give the same bits.

    Args:
        image: a digest of the LR image.
        more: further values to include.
    """
    settings = decisive(config.to_dict())
    about = {'image': image, 'config': settings, 'name': name, 'device': device.type,
             'torch': torch.__version__, 'code': code_digest(),
             'kernel': None if kernel is None else kernel.tolist(),
             'textures': weights_digest(config.texture_weights) if config.uses_textures else None, **more}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class Checkpoint:
    """A file with a run's latest snapshot, written atomically.

    Args:
        path: the file.
        key: a :func:`fingerprint`; a file with another key belongs to another run and is ignored.
        every: seconds between two checkpoints; longer if writing would take more than :data:`SHARE` of the time.
    """

    def __init__(self, path: Path, key: str, every: float = EVERY) -> None:
        self.path, self.key, self.every = path, key, every
        self._due = time.monotonic() + every
        self._shown = printable(str(path))

    def load(self) -> dict[str, Any] | None:
        """The snapshot; None if there is none, or the file is damaged or belongs to another run."""
        try:
            content = torch.load(self.path, map_location='cpu', weights_only=True)
            return content['snapshot'] if content['key'] == self.key else None
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            log.warning(f'{self._shown}: not a checkpoint ({type(error).__name__}): this image starts from scratch')
            return None

    def offer(self, progress: Progress, now: bool = False, **more: Any) -> None:  # noqa: ANN401  (values and tensors)
        """Save the state after this step if it is due, or if ``now``; ``more`` is added to the snapshot.

        If it cannot be written, a warning is logged and the run goes on.
        """
        begin = time.monotonic()
        if progress.step >= progress.total or not (now or begin >= self._due):
            return  # nothing to save after a phase's last step; the next step has it
        content = {'key': self.key, 'snapshot': {**progress.snapshot(), **more}}
        try:
            write_atomically(self.path, lambda file: torch.save(content, file))
        except (OSError, RuntimeError) as error:  # torch.save wraps some OSErrors
            log.warning(f'{self._shown}: the checkpoint cannot be written: {getattr(error, "strerror", None) or error}')
        end = time.monotonic()
        self._due = end + max(self.every, (end - begin) / SHARE)


def digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_record(path: Path, key: str, files: list[Path], **about: Any) -> None:  # noqa: ANN401  (as JSON takes it)
    """Write a JSON record that these files, with their checksums, are the finished result for ``key``."""
    sums = {os.path.relpath(file, path.parent): digest(file) for file in files}
    record = {'key': key, 'files': sums, **about}
    text = json.dumps(record, indent=2) + '\n'  # ASCII, as file names may be undecodable
    write_text_atomically(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no such file, or anything else in it."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """The record, if it has this key and all its files are unchanged; else None."""
    record = read_json(path)
    try:
        sound = record['key'] == key and all(digest(path.parent / name) == value
                                             for name, value in record['files'].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return record if sound else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; creates its folder. See :func:`hold`."""
    with hold(path, make_folder=True):
        yield


def hold(path: Path, make_folder: bool = False) -> TextIO:
    """Lock a file until the returned handle is closed. The lock of a process that dies is released.

    Raises:
        ValueError: another process holds it, or the file system does not support locks.
        FileNotFoundError: its folder does not exist (any more).
    """
    for _ in range(PATIENCE):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, 'w', encoding='utf-8')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BlockingIOError:
            time.sleep(0.05)  # perhaps a call of is_locked elsewhere
        except FileNotFoundError:
            pass  # its holder has removed the file since it was opened here
        except OSError as error:
            file.close()
            raise ValueError(f'{path.parent}: this file system does not support locks ({error.strerror})') from error
        file.close()
    raise ValueError(f'{path.parent}: another process is working here')


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file."""
    try:
        with open(path, encoding='utf-8') as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Stopped(Exception):  # noqa: N818  (not an error: the user asked for it)
    """The run was asked to stop and has saved its state; ``signal`` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.signal = number


class StopRequest:
    """Context that records Ctrl-C and SIGTERM in ``number``; a second signal raises KeyboardInterrupt at once.

    The request is kept after the context, which may be entered again.

    Args:
        on_request: called at the first signal.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        self.number: int | None = None
        self._on_request = on_request
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        self._on_request()


def drain(steps: Generator[Progress, None, Result], checkpoint: Checkpoint | None,
          listeners: Iterable[Callable[[Progress], None]], stop: StopRequest,
          more: Callable[[], Mapping[str, Any]] = dict) -> Result:
    """Run all steps; pass each to every listener, then to the checkpoint together with the result of ``more``.

    There is no checkpoint after the last step of a phase, so a run asked to stop there takes one more step; after the
    very last step it ends normally. Callers that do several runs must therefore check ``stop`` between them.

    Raises:
        Stopped: a stop was requested; the checkpoint has the state after the last step.
    """
    listeners = list(listeners)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        for listen in listeners:
            listen(progress)
        if checkpoint is not None:
            checkpoint.offer(progress, now=stop.number is not None, **more())
        if stop.number is not None and progress.step < progress.total:
            raise Stopped(stop.number)
