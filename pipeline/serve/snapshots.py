"""The routes of snapshots: copies of the memory below one folder, each there whole or not at all."""

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import ConfigDict, Field

from pipeline.serve.refusals import Refusal, responses
from pipeline.serve.requests import Given
from pipeline.serve.service import Service
from pipeline.serve.shown import Shown

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"


class Wanted(Given):
    """A snapshot to write."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(
        description="Name of its folder: small letters, digits and hyphens.",
        pattern=NAME,
        examples=["before-import"],
    )


class Snapshot(Shown):
    """A snapshot: `python -m pipeline.ask --memory FOLDER` asks it."""

    name: str = Field(description="Its name.", examples=["before-import"])
    facts: int = Field(description="Facts that hold in it.", examples=[14107])
    bytes: int = Field(description="Bytes of its files.", examples=[10485760])
    at: str = Field(description="When it was written.", examples=["2026-01-01T12:00:00+00:00"])


class Snapshots(Shown):
    """Snapshots."""

    snapshots: list[Snapshot] = Field(description="By name.")


def routes(service: Service) -> APIRouter:
    """Return the routes of snapshots."""
    router = APIRouter()
    writes = Depends(HTTPBearer(auto_error=False, description="The server's token; reading needs none."))
    folder = service.settings.snapshots
    one_at_a_time = Lock()

    @router.get("/snapshots", tags=["snapshots"], responses=responses())
    def listed() -> Snapshots:
        """Return the snapshots that there are."""
        places = sorted(folder.iterdir()) if folder.is_dir() else []
        return Snapshots(snapshots=[told for place in places if (told := _told(place)) is not None])

    @router.post(
        "/snapshots",
        tags=["snapshots"],
        status_code=201,
        dependencies=[writes],
        responses=responses(401, 409),
    )
    def write(wanted: Wanted) -> Snapshot:
        """Write the memory as it is now; changes wait for it, answers don't."""
        place = folder / wanted.name
        with one_at_a_time:
            if place.exists():
                raise Refusal(409, f"there is a snapshot {wanted.name!r} already", "name", "exists")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
                fresh = Path(scratch) / wanted.name
                with service.memory.alone():
                    service.memory.snapshot(fresh)
                shutil.move(fresh, place)
        told = _told(place)
        assert told is not None
        return told

    return router


def _told(place: Path) -> Snapshot | None:
    """Return what a folder holds, None where it is no snapshot."""
    file = place / "facts.parquet"
    if place.name.startswith(".") or not file.is_file():
        return None
    try:
        facts = pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, OSError):
        return None
    size = sum(part.stat().st_size for part in place.iterdir())
    at = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return Snapshot(name=place.name, facts=facts, bytes=size, at=at)
