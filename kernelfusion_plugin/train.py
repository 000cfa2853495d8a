"""``python -m kernelfusion_plugin.train -opt options/….yml``: BasicSR's train program with our models registered."""

import sys

from kernelfusion_plugin import launch


def main() -> int:
    """Run BasicSR's train_pipeline in the working folder; returns the exit status."""
    return launch.run('train')


if __name__ == '__main__':
    sys.exit(main())
