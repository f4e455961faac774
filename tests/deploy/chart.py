"""A chart as Helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Rendered:
    """The manifests of one set of values."""

    text: str
    objects: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def named(self, kind: str, suffix: str) -> dict[str, Any]:
        """The one object of a kind whose name ends so."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"].endswith(suffix)]
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Everything that runs: its component, and the template of its pods."""
        for one in self.of("Deployment") + self.of("Job"):
            labels = one["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], one["spec"]["template"]


class HelmFailed(RuntimeError):
    """What Helm said."""


def run(helm: Path, *arguments: str) -> str:
    """Run Helm in an environment of nothing."""
    done = subprocess.run(
        [str(helm), *arguments],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HelmFailed(done.stdout + done.stderr)
    return done.stdout


def render(helm: Path, chart: Path, *arguments: str) -> Rendered:
    """`helm template`; raises HelmFailed."""
    text = run(helm, "template", "release", str(chart), "--namespace", "ns", *arguments)
    return Rendered(text, [one for one in yaml.safe_load_all(text) if one])
