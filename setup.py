"""Installs the package kernelfusion_plugin and the start-up line through which any BasicSR program finds it."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

if not (3, 10) <= sys.version_info[:2] < (3, 13):
    sys.exit('kernelfusion-plugin needs Python 3.10, 3.11 or 3.12, but this is {}.{}: basicsr, on which it is based, '
             'cannot be built on Python 3.13 or later. Use e.g. python3.12 -m pip install .'
             .format(*sys.version_info[:2]))

HERE = Path(__file__).resolve().parent
README = HERE / 'README.md'
HOOK = 'kernelfusion_hook.pth'
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'kernelfusion_plugin' / '__init__.py').read_text(encoding='utf-8'))


class BuildWithHook(build_py):
    """Puts the .pth file next to the packages, so that it is installed in site-packages, where Python looks for it.

    This also works for ``pip install -e .``, whose wheel otherwise contains none of our files. As part of the wheel,
    the file is listed in RECORD and removed when the package is uninstalled.
    """

    def run(self) -> None:
        super().run()
        folder = self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib
        self.mkpath(folder)
        self.copy_file(str(HERE / HOOK), str(Path(folder, HOOK)))


setup(
    name='kernelfusion-plugin',
    version=VERSION[1],
    description='KernelFusion (blind super-resolution with a patch diffusion prior) as a plug-in for BasicSR',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['kernelfusion_plugin', 'kernelfusion_plugin.*']),
    package_data={'kernelfusion_plugin': ['weights/*.pt', 'bench/compare/*.html']},
    py_modules=['kernelfusion_hook'],
    entry_points={'console_scripts': ['kernelfusion = kernelfusion_plugin.cli:main']},
    python_requires='>=3.10,<3.13',
    # basicsr has no wheel, so pip builds its sdist, whose setup.py needs torch, cython and numpy. With build isolation
    # (pip's default), pip downloads a second torch for that, which is slow but works. The Makefile avoids this by
    # installing torch first and then basicsr with --no-build-isolation.
    install_requires=[
        'basicsr>=1.4.2',
        'click>=8',
        'lmdb',
        'matplotlib',
        'numpy',
        'opencv-python',
        'pillow',
        'pyyaml',
        'tifffile',
        'torch>=2.0',
        'torchvision',
        'tqdm',
    ],
    extras_require={
        'demo': ['scikit-image'],  # provides the photograph
        'h5py': ['h5py'],  # kernels in MATLAB 7.3 files, such as Levin's
        'perceptual': ['lpips'],  # the metric calculate_lpips
        'test': ['pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', 'scikit-image', 'h5py', 'setuptools>=64', 'wheel'],
    },
    cmdclass={'build_py': BuildWithHook},
    zip_safe=False,
)
