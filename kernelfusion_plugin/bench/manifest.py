"""Reads a data set's manifest, checks files against it, and rebuilds its data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..core.kernel_files import load_kernel
from .datasets import Setting, Sources, find_recipe
from .make import FORMAT, make_dataset
from .storage import Folders, Lmdbs, digest


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; ValueError, one line, if it is not valid."""
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ValueError(f'{path}: cannot be read as a manifest: {reason}') from error
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT or 'setting' not in manifest:
        raise ValueError(f'{path}: not a manifest of format {FORMAT}')
    return manifest


def verify(path: Path) -> list[str]:
    """Compare the files next to a manifest with it; returns a line for each that differs or is missing."""
    manifest, root = read_manifest(path), path.parent
    storage = Lmdbs(root) if manifest['lmdb'] else Folders(root)
    faults: dict[str, None] = {}
    for row in manifest['images']:
        for role, place, name in (('hr', 'HR', row['image']), ('lr', row['lr_place'], row['image']),
                                  ('kernel', row['kernel_file'], '')):
            try:
                found = _read_kernel(root / place) if role == 'kernel' else storage.get(place, name)
            except ValueError as error:
                faults[str(error)] = None
                continue
            if digest(found) != row['sha256'][role]:
                faults[f'{(root / place / name).as_posix()}: differs from the manifest'] = None
    storage.close()
    return list(faults)


def _read_kernel(path: Path) -> np.ndarray:
    load_kernel(path)  # raises a one-line error if it is invalid
    return np.load(path)


def rebuild(path: Path, sources: Sources, out: Path, lmdb: bool) -> list[str]:
    """Rebuild the data set of a manifest; returns a line for each picture or kernel that differs."""
    manifest = read_manifest(path)
    setting = Setting(**{**manifest['setting'], 'images': tuple(manifest['setting']['images'])})
    again = make_dataset(find_recipe(manifest['recipe']), setting, sources, out, lmdb)
    made = {(row['image'], row['kernel']): row['sha256'] for row in again['images']}
    faults: dict[str, None] = {}
    for row in manifest['images']:
        digests = made.get((row['image'], row['kernel']))
        if digests is None:
            faults[f'{row["image"]} under {row["kernel"]}: not made'] = None
            continue
        faults |= {f'{row["image"]} under {row["kernel"]}: {role} differs': None
                   for role in ('hr', 'lr', 'kernel') if digests[role] != row['sha256'][role]}
    return list(faults)
