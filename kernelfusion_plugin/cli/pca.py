"""``kernelfusion pca``: the PCA matrix that DAN codes kernels with, of the kernels that a training file draws."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from tqdm import tqdm

from ..atomic import ready_folder, write_atomically
from ..core.kernel_families import Mixture
from ..core.kernel_pca import decode, pca_matrix
from ..core.metrics import kernel_ncc
from ..option_files import apply_force_yml, read_file
from .paths import UserPath

HELD_OUT = 200  # kernels that the matrix is tried on


@click.command()
@click.option('-opt', 'opt_file', required=True, help='Option file of the training.')
@click.option('-o', '--out', type=UserPath(dir_okay=False), help="File to write. [default: the option file's "
              'network_g.pca_matrix_path]')
@click.option('--count', default=10_000, show_default=True, type=click.IntRange(1), help='Kernels to draw.')
@click.option('--seed', default=0, show_default=True, help='Of the draws.')
@click.option('--force_yml', multiple=True, metavar='SECTION:OPTION=VALUE', help='Change an option; may be repeated.')
def command(opt_file: str, out: Path | None, count: int, seed: int, force_yml: tuple[str, ...]) -> None:
    """Make the PCA matrix of the kernels that datasets.train.kernels draws, with network_g.input_para axes.

    It is needed before DAN or DANv2 is trained anew. Published weights hold theirs.
    """
    opt = read_file(opt_file)
    apply_force_yml(opt, list(force_yml))
    network = opt.get('network_g') or {}
    kernels = ((opt.get('datasets') or {}).get('train') or {}).get('kernels')
    out = out or network.get('pca_matrix_path')
    if kernels is None:
        raise ValueError(f'{opt_file}: datasets.train.kernels must list the families of kernels to draw')
    if out is None:
        raise ValueError(f'{opt_file} has no network_g.pca_matrix_path: say with -o where the matrix shall go')
    mixture = Mixture.from_options(kernels, 'datasets.train.kernels')
    ready_folder(Path(out).parent, str(out))
    generator = torch.Generator().manual_seed(seed)
    drawn = (mixture.draw(generator) for _ in tqdm(range(count), 'kernels', mininterval=1))
    matrix = pca_matrix(drawn, int(network.get('input_para') or 10))
    write_atomically(out, lambda file: torch.save(matrix, file))
    fresh = torch.stack([mixture.draw(generator) for _ in range(HELD_OUT)])
    back = decode(fresh.flatten(1) @ matrix, matrix)
    correlation = torch.tensor([kernel_ncc(a, b) for a, b in zip(fresh, back, strict=True)])
    click.echo(f'{out}: {matrix.shape[0]} x {matrix.shape[1]}. {HELD_OUT} other kernels, coded and decoded, correlate '
               f'with themselves by {correlation.mean():.3f} on average, at the least by {correlation.min():.3f}')
