"""A bare mover: `python -m benchmarks.mover SOURCE TARGET BYTES` reads all of one file or folder,
and writes so many bytes to another file, safely on disk. What a job must do at the very least.
SOURCE and TARGET may be objects, as s3://bucket/key, with the endpoint and the keys in AWS's variables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

BLOCK = 8 * 2**20


def move(source: Path, target: Path, written: int) -> int:
    """Bytes read. A block of reading and its share of writing, in turn, through one buffer."""
    files = sorted(source.rglob("*.safetensors")) if source.is_dir() else [source]
    total = sum(file.stat().st_size for file in files)
    buffer = memoryview(bytearray(BLOCK))
    read = done = 0
    with target.open("wb", buffering=0) as out:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    read += count
                    due = written * read // total
                    while done < due:
                        done += out.write(buffer[: min(BLOCK, due - done)])
        os.fsync(out.fileno())
    return read


def main() -> None:
    """Move what was asked for."""
    source, target, written = sys.argv[1:]
    if source.startswith("s3://"):
        _move_objects(source, target, int(written))
    else:
        move(Path(source), Path(target), int(written))


def _move_objects(source: str, target: str, written: int) -> None:
    import boto3

    from benchmarks.s3_mover import Mover

    def place(url: str) -> tuple[str, str]:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        return bucket, key

    client = boto3.client("s3")
    Mover(client, place(source), place(target), written).run()
    client.close()


if __name__ == "__main__":
    main()
