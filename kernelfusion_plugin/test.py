"""``python -m kernelfusion_plugin.test -opt options/….yml``: BasicSR's test program with our models registered."""

import sys

from kernelfusion_plugin import launch


def main() -> int:
    """Run BasicSR's test_pipeline in the working folder; returns the exit status."""
    return launch.run('test')


if __name__ == '__main__':
    sys.exit(main())
