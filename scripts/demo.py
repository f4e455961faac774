"""A real, trained model through the whole service on this machine: `make demo`.

    a sentence encoder of 22.7 million weights → S3 bucket → three jobs over HTTP → S3 bucket
    → fetched, verified, opened again, and put to use beside the original

The object store is SeaweedFS, the service is `arrowquant serve` with its embedded Redis, SQLite and
one Celery worker. Everything lies in data/demo, is replaced by the next run, and is stopped at the
end. Exit code 1, with the end of the server's log, if anything is not as it must be.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

ROOT = Path(__file__).resolve().parent.parent
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run with the options of the command line; the exit code."""
    parser = argparse.ArgumentParser(description="A real model through the whole service.")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "demo", help="folder to use")
    parser.add_argument("--keep", action="store_true", help="leave the service up until Ctrl-C")
    parser.add_argument(
        "--model", type=Path, help="folder of a BERT encoder with its tokenizer.json to use instead"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    # Two artifacts are measured at a time; threads within a product would only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from arrowquant.errors import ArrowQuantError
    from scripts.demonstration.measure import find_model
    from scripts.demonstration.processes import Failed
    from scripts.demonstration.run import run

    heard: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    # Asked to end, it ends as with Ctrl-C: programs are stopped first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        model = options.model.absolute() if options.model else find_model()
        run(options.data.absolute(), model, Console(), keep=options.keep)
        if heard:
            # Python drops what is raised in a callback of its own, which an import has many of.
            raise KeyboardInterrupt
    except (Failed, ArrowQuantError) as error:
        Console(stderr=True).print(f"[red]failed:[/] {escape(str(error))}", highlight=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; all is stopped")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
