"""``python basicsr/train.py -opt options/….yml`` in this repository's root; BasicSR itself is the installed one."""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # this checkout's kernelfusion_plugin

if __name__ == '__main__':
    from kernelfusion_plugin.train import main
    sys.exit(main())
