"""Weights published by others, which are not ours to ship: where to download each file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SWINIR = 'https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/'
REAL_ESRGAN = 'https://github.com/xinntao/Real-ESRGAN/releases/download/'
DAN = 'https://drive.google.com/drive/folders/1aOaxXFfMAM6GvvPz56lzUwVmg7BMM_mR (github.com/greatlog/DAN)'
DCLS = 'https://drive.google.com/drive/folders/135xCCLWSylBaNxh6B3I_UnCeox8AkVzC (github.com/megvii-research/DCLS-SR)'
NO_LICENCE = 'none stated: ask the authors before any use other than research'


@dataclass(frozen=True)
class Published:
    """A weights file: official name, download source, licence."""

    file: str
    source: str
    licence: str


PUBLISHED = {entry.file: entry for entry in (
    *(Published(file, SWINIR + file, 'Apache-2.0') for file in (
        '001_classicalSR_DF2K_s64w8_SwinIR-M_x2.pth', '001_classicalSR_DF2K_s64w8_SwinIR-M_x3.pth',
        '001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth', '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth',
        '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_PSNR.pth')),
    Published('RealESRGAN_x4plus.pth', REAL_ESRGAN + 'v0.1.0/RealESRGAN_x4plus.pth', 'BSD-3-Clause'),
    Published('RealESRNet_x4plus.pth', REAL_ESRGAN + 'v0.1.1/RealESRNet_x4plus.pth', 'BSD-3-Clause'),
    Published('RealESRGAN_x2plus.pth', REAL_ESRGAN + 'v0.2.1/RealESRGAN_x2plus.pth', 'BSD-3-Clause'),
    *(Published(f'dan{version}_x{scale}_setting{setting}.pth', DAN, NO_LICENCE)
      for version in ('v1', 'v2') for scale, setting in ((2, 1), (3, 1), (4, 1), (2, 2), (4, 2))),
    *(Published(f'DCLSx{scale}_setting{setting}.pth', DCLS, 'MIT')
      for scale, setting in ((2, 1), (3, 1), (4, 1), (2, 2), (4, 2))),
)}


def missing_weights(path: str | Path) -> str:
    """Error message for a missing weights file: what to download, and from where."""
    entry = PUBLISHED.get(Path(path).name)
    if entry is None:
        return f'path.pretrain_network_g: there is no file {path}'
    return (f'path.pretrain_network_g: there is no file {path}: download {entry.file} from {entry.source} to it '
            f'(licence: {entry.licence})')
