"""``kernelfusion restore``: recover sharp pictures and blur kernels from blurred, small ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from torch import Tensor

from ..atomic import ready_folder
from ..checkpoints import EVERY
from ..click_device import device_option
from ..click_path import UserPath
from ..core.config import PRESETS, KernelFusionConfig
from ..core.faults import prefixed
from ..core.inputs import grid_for, known_kernel
from ..core.kernel_files import load_kernels
from ..core.memory import keep_freed_memory
from ..core.phase1 import PHASES
from ..core.regional_degradation import read_grid
from ..core.solvers import SOLVERS
from ..core.texture_prior import load_texture_net
from ..files import WRITABLE, distinct_names, find_pictures
from ..live import at_work
from ..option_files import parse_value
from ..restoration import MOST_SHRUNK, Restoration, Settings, came_about
from .batch import announcement, rehearse, restore_all, survey

log = logging.getLogger(__name__)

HELP = """Enlarge and sharpen pictures blurred by an unknown kernel, and find that kernel.

PICTURES are files, folders or patterns ('*.jpg'): PNG, JPEG, TIFF, WebP and others. Greyscale, 16-bit depth,
transparency, orientation and colour profile are kept. Written for each picture:

\b
    NAME_x4.png          the restored picture (TIFF input gives TIFF, unless -o names a file)
    NAME_kernel.npy      the kernel, float32, sums to 1; NAME_kernel.png for viewing
    NAME_kernels.npy     with --regions: one kernel per region, (R, C, K, K); NAME_kernels.png
    NAME_sheet.png       bicubic, result and kernel side by side
    NAME_restored.json   settings, versions and checksums, by which finished pictures are recognised

During the run, NAME_run/live.png shows the current picture and kernel (see 'kernelfusion watch'). After Ctrl-C, kill or
a power cut, repeat the command to resume from the last checkpoint, at most about a minute old; the result is the same,
bit for bit. Finished pictures are kept. If the picture, an option or the version has changed, the run starts from
scratch, as with --fresh.

\b
Exit status: 0 success; 1 some pictures failed; 2 invalid options, nothing was done;
130 stopped by Ctrl-C, 143 by SIGTERM: repeat the command to resume.
"""


@click.command(help=HELP)
@click.argument('places', metavar='PICTURES...', nargs=-1, required=True)
@click.option('-o', '--out', type=UserPath(), default=Path('restored'), show_default=True,
              help='Output folder; or, for a single picture, a .png, .tif, .jpg or .webp file.')
@click.option('--scale', type=click.IntRange(2, 8), default=4, show_default=True, help='2, 3 and 4 have been tested.')
@click.option('--preset', type=click.Choice(list(PRESETS)), default='quick', show_default=True,
              help='How long to train the patch prior: quick suits a CPU; paper takes hours on a GPU. No effect on em '
                   'unless em.kernel_prior or em.final_prior uses that prior (internal, both).')
@click.option('--solver', type=click.Choice(SOLVERS), default='em', show_default=True,
              help="em: diffusion EM, fast. joint: the paper's Algorithm 1.")
@click.option('--kernel', 'kernel_file', type=UserPath(),
              help='Known kernel, sampled on the pixel grid of the result: .npy (such as NAME_kernel.npy or '
                   'NAME_kernels.npy), .mat, .txt or a picture.')
@click.option('--shrink', type=click.IntRange(1, MOST_SHRUNK), default=1, show_default=True,
              help='First shrink the picture by this factor: for blurs many pixels wide, such as camera shake.')
@click.option('--kernel-size', type=int, help='Side of the kernel to find, in pixels.  [default: 6 x scale]')
@click.option('--regions', metavar='RxC|auto', help='Find one kernel for each of R x C regions.  [default: 1x1]')
@device_option
@click.option('--seed', type=int, default=0, show_default=True,
              help="Seeds all randomness, together with the picture's name.")
@click.option('--set', 'changes', metavar='KEY=VALUE', multiple=True,
              help='Change any setting, e.g. em.fine_passes=8; may be repeated.')
@click.option('--save-run', is_flag=True, help='Keep NAME_run, with a plot and frames for an animation.')
@click.option('--fresh', is_flag=True, help='Start from scratch, ignoring earlier results and checkpoints.')
@click.option('--dry-run', is_flag=True, help='Only report what would be done, and the time and memory it would take.')
@click.option('--checkpoint-every', type=click.FloatRange(min=0), default=EVERY, show_default=True,
              help='Seconds between two checkpoints.')
@click.pass_context
def command(ctx: click.Context, places: tuple[str, ...], out: Path, kernel_file: Path | None, device: torch.device,
            changes: tuple[str, ...], save_run: bool, fresh: bool, shrink: int, dry_run: bool,
            checkpoint_every: float, **options: Any) -> None:  # noqa: ANN401  (scale, preset, solver, kernel_size, regions, seed: as in the config)
    asked = gather(options, changes, [key for key in options
                                      if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE])
    config, kernel = KernelFusionConfig.from_dict(asked), None
    if kernel_file is not None:
        config, kernel = with_kernel(config, kernel_file, shrink, asked)
    if config.texture_weights:
        with prefixed('--set texture_weights'):  # once, as a fault of the options, not for each picture
            load_texture_net(config.texture_weights)
    if ctx.get_parameter_source('preset') is ParameterSource.COMMANDLINE and not fits_patch_prior(config):
        log.info(f'--preset {config.preset} has no effect with these options: see --help')
    settings = Settings(config, device, kernel, save_run, fresh, shrink, checkpoint_every)
    keep_freed_memory(settings.device)
    paths = find_pictures(places)
    if any(Path(place).is_dir() and Path(place).resolve() == out.resolve() for place in places):
        raise ValueError(f'-o {out}: is an input folder: the next run would restore the results too; name another')
    todo = plan(paths, out, settings)
    if not dry_run:
        ready_folder(todo[0].out.parent, f'-o {out}')
    with nullcontext() if dry_run else at_work(todo[0].out.parent):
        found = survey(todo)
        for line in announcement(todo, found):
            log.info(line)
        ctx.exit(rehearse(found) if dry_run else restore_all(todo))


def gather(options: dict[str, Any], changes: Iterable[str], given: Collection[str]) -> dict[str, Any]:
    """The settings section from the command's own options, overridden by the ``--set`` changes.

    Args:
        given: keys of ``options`` that the user gave explicitly.

    Raises:
        ValueError: a change is not KEY=VALUE, or sets one of ``given`` to another value.
    """
    section: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    for change in changes:
        key, equals, value = change.partition('=')
        *above, last = key.strip().split('.')
        if not equals or not all((*above, last)) or len(above) > 1:
            raise ValueError(f'--set takes KEY=VALUE or SECTION.KEY=VALUE, got {change!r}')
        place = section.setdefault(above[0], {}) if above else section
        if not isinstance(place, dict):
            raise ValueError(f'--set {change}: {above[0]} is not a section of settings')
        place[last] = parse_value(value.strip())
        if not above and last in given and place[last] != options[last]:
            flag = f'--{last.replace("_", "-")} {options[last]}'
            raise ValueError(f'{flag} and --set {change} contradict each other: give one of them')
    return section


def with_kernel(config: KernelFusionConfig, file: Path, shrink: int,
                asked: Mapping[str, Any]) -> tuple[KernelFusionConfig, Tensor]:
    """The config adapted to the known kernel in ``file`` (its size), and that kernel.

    Args:
        shrink: as in Settings.
        asked: the section from which ``config`` was made.

    Raises:
        ValueError: the file cannot be read, or contradicts ``config`` or ``asked``.
    """
    kernel = load_kernels(file)
    check_origin(file, config, shrink)
    size, grid = grid_for(kernel.shape[-1], config.scale), tuple(kernel.shape[:-2]) or (1, 1)
    hint = ' (NAME_kernel.png is enlarged: give NAME_kernel.npy)' if file.suffix == '.png' else ''
    end = 'contradict each other: give one of them'
    if asked.get('kernel_size') is not None and config.kernel_size != size:
        raise ValueError(f'--kernel {file} ({size} x {size}) and --kernel-size {config.kernel_size} {end}{hint}')
    if asked.get('regions') is not None and read_grid(config.regions) != grid:
        raise ValueError(f'--kernel {file} ({grid[0]}x{grid[1]} regions) and --regions {config.regions} {end}')
    try:
        config = replace(config, kernel_size=size)
        return config, known_kernel(kernel, config)
    except ValueError as error:
        raise ValueError(f'--kernel {file}: {error}{hint}') from error


def check_origin(file: Path, config: KernelFusionConfig, shrink: int) -> None:
    """Check that a kernel found by an earlier run fits this one.

    A kernel is sampled on the pixel grid of the result, so it is valid only for the scale and shrink it was found with.

    Raises:
        ValueError: according to the record next to ``file``, it was found with other values.
    """
    record = file.with_name(re.sub('_kernels?$', '_restored.json', file.stem))
    came = came_about(record, file)
    if came is None:
        return
    for option, found, asked in (('--scale', came.scale, config.scale), ('--shrink', came.shrink, shrink)):
        if found != asked:
            raise ValueError(f'--kernel {file}: found with {option} {found} (see {record.name}), and only valid for '
                             f'that grid: give {option} {found}, or another kernel')


def fits_patch_prior(config: KernelFusionConfig) -> bool:
    """Whether the run fits PD to y, the only step that the presets affect."""
    return any(PHASES[phase].section == 'prior' for phase in SOLVERS[config.solver].training(config))


def plan(paths: list[Path], out: Path, settings: Settings) -> list[Restoration]:
    """What to restore, and where each result goes.

    Raises:
        ValueError: a result would overwrite an input picture or another result, or its format is not supported.
    """
    if out.suffix and not out.is_dir():
        if out.suffix.lower() not in WRITABLE:
            raise ValueError(f'-o {out}: a picture must end in {", ".join(WRITABLE)}; a folder must have no extension')
        if len(paths) > 1:
            raise ValueError(f'-o {out} is a single file, but there are {len(paths)} pictures: name a folder')
        todo = [Restoration(paths[0], out, settings)]
    else:
        endings = ['.tif' if path.suffix.lower() in ('.tif', '.tiff') else '.png' for path in paths]
        todo = [Restoration(path, out / f'{name}_x{settings.config.scale}{ending}', settings)
                for path, name, ending in zip(paths, distinct_names(paths), endings, strict=True)]
    sources = {path.resolve() for path in paths}
    for one in todo:
        clash = next((path for path in one.results if path.resolve() in sources), None)
        if clash is not None:
            raise ValueError(f'{clash} is an input picture and would be overwritten: choose another place with -o')
    return todo
