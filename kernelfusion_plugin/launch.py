"""What our launchers share: ``python -m kernelfusion_plugin.test``, ``….train``, and ``basicsr/test.py`` of ours."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from pathlib import Path

import kernelfusion_hook
from kernelfusion_plugin import compat, options, runlog

_PACKAGE = str(Path(__file__).resolve().parent)
# What torch makes of a fault in a loader's worker: the file that raised it, last in the traceback, and its message.
_IN_WORKER = re.compile(r'Caught \w+ in DataLoader worker process .*  File "([^"]*)", line .*?\n\w+: (.*)', re.DOTALL)


def run(pipeline: str) -> int:
    """Run BasicSR's ``test_pipeline`` or ``train_pipeline`` with our archs, models and metrics in place.

    The root of the run (``results/``, ``experiments/``) is the folder that the user runs in.

    Args:
        pipeline: 'test' or 'train'.

    Returns:
        Exit status: 0; 1 if an image failed; 2 for a fault in the options, with one line on stderr
        (``KERNELFUSION_DEBUG=1``: with the traceback).
    """
    step_over_unbuilt_checkout()
    kernelfusion_hook.install()
    options.claim_every_run()
    try:
        compat.register()
        module = importlib.import_module(f'basicsr.{pipeline}')
        if pipeline == 'train':
            importlib.import_module('kernelfusion_plugin.resume').patch(module)
        getattr(module, f'{pipeline}_pipeline')(os.getcwd())
    except options.FAULTS as error:
        if not told(error):
            raise
        return 2
    return 1 if runlog.failures else 0


def told(error: BaseException) -> bool:
    """Write a fault in the options to stderr, unless :func:`one_line` is None; True if written."""
    line = one_line(error)
    if line is not None:
        sys.stderr.write(f'kernelfusion: error: {line}\n')
    return line is not None


def one_line(error: BaseException) -> str | None:
    """The message to show instead of a traceback; None if the fault may be in the program, or the user debugs."""
    if os.environ.get('KERNELFUSION_DEBUG') == '1':
        return None
    if isinstance(error, ImportError):
        absent = isinstance(error, ModuleNotFoundError) and (error.name or '').partition('.')[0] == 'basicsr'
        return (f'BasicSR is not installed in {sys.executable} ({error}). After "make demo": . .venv/bin/activate. '
                "Otherwise: pip install 'basicsr>=1.4.2'" if absent else None)
    frames = traceback.extract_tb(error.__traceback__)
    place, text = frames[-1].filename if frames else '', str(error)
    if in_worker := _IN_WORKER.match(text):
        place, text = in_worker.groups()
    raised_by_us = place.startswith(_PACKAGE)
    refused = isinstance(error, FileNotFoundError) or getattr(error, 'errno', None) is not None  # by the system
    if raised_by_us or refused:
        return ' '.join(text.split()) or type(error).__name__
    return None


def step_over_unbuilt_checkout() -> None:
    """If the working folder is a checkout of BasicSR that was never built, use the installed BasicSR.

    ``python -m`` puts the working folder first. An unbuilt checkout lacks ``basicsr/version.py`` and cannot be
    imported; ``python basicsr/test.py`` also avoids it, as it looks in another folder first.
    """
    basicsr = Path(sys.path[0] or '.', 'basicsr') if sys.path else None
    if basicsr and (basicsr / '__init__.py').exists() and not (basicsr / 'version.py').exists():
        del sys.path[0]
