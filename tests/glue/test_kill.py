"""kill -9 at random moments: the same command then ends with the same bits as if nothing had happened.

    python -m pytest -m slow -s tests/glue/test_kill.py
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from glue_helpers import toy_options, write_pair
from PIL import Image
from starting import ROOT

KILLS = 20
TOY = ['--scale', '2', '--checkpoint-every', '0.5', '--set', 'prior.channels=8', '--set', 'prior.steps=60',
       '--set', 'em.sketch_passes=3', '--set', 'em.coarse_passes=3', '--set', 'em.fine_passes=3',
       '--set', 'em.final_prior=both']
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'KERNELFUSION_NO_HOOK': '1'}


def start(folder, out, solver):
    if solver == 'toolbox':
        (folder / out).mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, str(ROOT / 'basicsr/test.py'), '-opt', str(folder / 'toy.yml')],
                                cwd=folder / out, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True)
    command = [sys.executable, '-m', 'kernelfusion_plugin', 'restore', 'in', '-o', out, '--solver', solver, *TOY]
    if solver == 'joint':
        command += ['--set', 'joint.n_iter=2', '--set', 'joint.n_iter_first=4', '--set', 'joint.n_steps=4']
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)


def contents(folder):
    """Every file's bytes, but logs; of tables and records what does not hold seconds."""
    found = {}
    for path in folder.rglob('*'):
        if path.name == 'scores.csv':
            with open(path, newline='') as file:
                found['scores.csv'] = [{key: value for key, value in row.items() if 'seconds' not in key}
                                       for row in csv.DictReader(file)]
        elif path.suffix != '.log':
            plain = path.is_file() and path.suffix != '.json'
            found[str(path.relative_to(folder))] = path.read_bytes() if plain else None
    return found


@pytest.mark.slow
@pytest.mark.parametrize('solver', ['em', 'joint', 'toolbox'])
def test_killed_at_random_moments(solver, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'in').mkdir()
    for name in 'abc':
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)).save(tmp_path / 'in' / f'{name}.png')
    if solver == 'toolbox':
        shutil.rmtree(tmp_path / 'in')
        for seed, name in enumerate('abc'):
            write_pair(tmp_path, name, seed, (16, 17))
        em = {'sketch_passes': 3, 'coarse_passes': 3, 'fine_passes': 2, 'final_prior': 'both'}
        opt = toy_options(tmp_path, kernelfusion__em=em, kernelfusion__prior={'channels': 8, 'steps': 60},
                          kernelfusion__plot=True, kernelfusion__sheet=True, kernelfusion__checkpoint_every=0.5)
        (tmp_path / 'toy.yml').write_text(yaml.safe_dump(opt))
    begin = time.monotonic()
    assert start(tmp_path, 'whole', solver).wait() == 0
    whole, kills, trial, extra = time.monotonic() - begin, 0, 0, 0.0
    moments = random.Random(0)
    while kills < KILLS:
        trial += 1
        out, begin, before = f'out{trial}', time.monotonic(), kills
        while True:
            process = start(tmp_path, out, solver)
            try:
                may = kills < KILLS and kills - before < 3
                process.wait(timeout=moments.uniform(0, whole) if may else None)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                continue
            break
        assert process.returncode == 0, process.stderr.read()
        for archive in (tmp_path / out).glob('results/*_archived_*'):  # it had finished, and was killed at its exit
            if not (archive / 'unfinished/run.json').exists():
                shutil.rmtree(archive)
        assert contents(tmp_path / out) == contents(tmp_path / 'whole'), f'trial {trial}'
        took = time.monotonic() - begin - whole
        extra += max(0.0, took)
        print(f'{solver}, trial {trial}: {kills - before} kills, {took:.1f} s lost; the same bits, nothing left over')
    print(f'{solver}: {kills} kills, {extra / kills:.1f} s lost per kill (the whole run: {whole:.1f} s)')
    assert extra / kills < 70
