"""Reference data for the tests that compare with published files; they are skipped where it is absent."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope='session')
def shared_data():
    """The folder with div2k/, kernels/ …: data/ under $KERNELFUSION_SHARED, or under shared/ beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / 'shared'
    folder = Path(os.environ.get('KERNELFUSION_SHARED', beside)) / 'data'
    if not (folder / 'kernels' / 'blind144_gt.npy').is_file():
        pytest.skip(f'reference data is not at {folder} (set KERNELFUSION_SHARED)')
    return folder


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test says, as UTF-8, which is all that pytest-xdist can send: file names may be no such text."""
    def sendable(text):
        return text.encode(errors='backslashreplace').decode()

    report = yield
    report.sections = [(name, sendable(text)) for name, text in report.sections]
    if report.failed and sendable(report.longreprtext) != report.longreprtext:
        report.longrepr = sendable(report.longreprtext)
    return report
