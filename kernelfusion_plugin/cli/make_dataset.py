"""``kernelfusion make-dataset``: the paper's data sets, others and custom ones, with a manifest to rebuild them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..bench.datasets import RECIPES, Setting, Sources, find_recipe
from ..bench.make import make_dataset
from ..bench.manifest import rebuild, verify
from ..bench.options_file import command_for
from ..click_path import UserPath

log = logging.getLogger(__name__)
FOLDER = UserPath(file_okay=False)
FILE = UserPath(exists=True, dir_okay=False)


class WithRecipes(click.Command):
    """A command whose help ends with the list of recipes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section('Recipes'):
            formatter.write_dl([(name, recipe.about) for name, recipe in RECIPES.items()])


@click.command(cls=WithRecipes)
@click.pass_context
@click.argument('recipe')
@click.option('--hr', type=FOLDER, help='Folder of HR pictures, e.g. DIV2K_valid_HR.')
@click.option('--out', type=FOLDER, help='Output folder. Default: datasets/NAME.')
@click.option('--levin', type=FILE, help="File of Levin's kernels, Levin09.mat.")
@click.option('--kernels', type=UserPath(exists=True), multiple=True,
              help='free: a kernel (.npy, .mat or a picture) or a folder of kernels; may be repeated.')
@click.option('--name', help='free: name of the data set.')
@click.option('--each', is_flag=True, help='free: blur every picture with every kernel, not with one at random.')
@click.option('--image', 'images', multiple=True,
              help='Name of a picture without its extension; may be repeated. Default: '
              "the recipe's pictures, or all.")
@click.option('--scale', default=4, show_default=True, help='How many times smaller the LR pictures are.')
@click.option('--seed', default=0, show_default=True,
              help="Seeds kernels, choices and noise, together with the picture's name.")
@click.option('--piece', default=0, help='Side of the central square to keep, in HR pixels. Default: whole pictures.')
@click.option('--noise', default=0.0, show_default=True,
              help='Standard deviation of white noise, on a scale of 0 to 255.')
@click.option('--jpeg', type=int, help='Compress the LR pictures as JPEG of this quality.')
@click.option('--border', help="Padding beyond the frame: zeros, reflect or replicate. Default: the recipe's.")
@click.option('--lmdb', is_flag=True, help='Write LMDBs instead of folders.')
@click.option('--verify', 'only_verify', is_flag=True,
              help='RECIPE is a manifest.json: check the files in its folder against it.')
def command(ctx: click.Context, recipe: str, hr: Path | None, out: Path | None, levin: Path | None,
            kernels: tuple[Path, ...], name: str | None, lmdb: bool, only_verify: bool,
            **choices: Any) -> None:  # noqa: ANN401
    """Make a data set from RECIPE: a recipe's name, or a manifest.json, whose data set is rebuilt and compared.

    Writes HR, LR and kernels in the layout that BasicSR's PairedImageDataset and dataroot_kernel read, a manifest with
    the sha256 of every file, and options.yml, which runs KernelFusion on the data set.
    """
    manifest = Path(recipe) if recipe.endswith('.json') else None
    if only_verify:
        if manifest is None:
            raise ValueError(f'--verify needs a manifest.json as RECIPE, got {recipe}')
        return _report(verify(manifest), 'all files match the manifest')
    if hr is None:
        raise ValueError('--hr is missing: give the folder of HR pictures')
    sources = Sources(hr, levin, kernels)
    if manifest is not None:
        said = [key for key in (*choices, 'name') if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE]
        if said:
            raise ValueError(f'--{said[0].rstrip("s")}: not allowed with a manifest.json, which fixes it already')
        out = out or manifest.parent.with_name(manifest.parent.name + '_again')
        return _report(rebuild(manifest, sources, out, lmdb), f'rebuilt in {out}, bit for bit')
    chosen = find_recipe(recipe)
    name = chosen.name if name is None else name
    out = out or Path('datasets', name)
    made = make_dataset(chosen, Setting(name, **choices), sources, out, lmdb)
    if not made['images']:
        return _report([f'{out}: nothing was made: none of {len(made["failed"])} pictures can be used (see above)'], '')
    partly = '' if made['whole_recipe'] or chosen.name == 'free' else f', only part of {chosen.name}'
    log.info(f'{out}: {len(made["images"])} LR pictures{partly}. To restore them: {command_for(out)}')
    if made['failed']:
        raise SystemExit(1)
    return None


def _report(faults: list[str], success: str) -> None:
    """Log the faults, one line each, and exit with status 1; without faults, log ``success``."""
    for fault in faults:
        log.error(fault)
    if faults:
        raise SystemExit(1)
    log.info(success)
