"""Types of artifacts.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import TypedDict


class ArtifactList(TypedDict):
    """The manifest first, then the report, then the parts in order; output by output."""

    artifacts: list[Artifact]


class Artifact(TypedDict):
    """One file of an artifact. `sha256` is in hex; `download_url` is a path of this API.
    `output` is empty where the job has but one.
    """

    output: str
    name: str
    bytes: int
    sha256: str
    download_url: str
