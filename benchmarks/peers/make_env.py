"""Make an environment for one of the other tools, with pinned versions.

    python benchmarks/peers/make_env.py modelopt            # or mct, neuroquant
    python benchmarks/peers/make_env.py mct --folder /elsewhere/mct

Each takes 4 to 6 GB, most of it torch. The environment's Python is that of this command.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = tuple(sorted(path.stem.removeprefix("requirements-") for path in HERE.glob("requirements-*.txt")))


def main() -> None:
    """Make the environment and install into it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("--folder", type=Path, help="default /tmp/peers/TOOL")
    arguments = parser.parse_args()
    folder = arguments.folder or Path("/tmp/peers") / arguments.tool  # noqa: S108
    venv.create(folder, with_pip=True)
    requirements = HERE / f"requirements-{arguments.tool}.txt"
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "-r", requirements], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
