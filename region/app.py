"""The composition root: everything a region process consists of is built here and passed down."""

import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from region.configuration import RegionConfiguration
from region.database.connection import REQUESTS, create_engine
from region.database.topics import Gathered, Topics
from region.fleet.keys import Keys
from region.fleet.sightings import Sightings
from region.importing.clock import Clock
from region.importing.importer import Importer
from region.process import Region
from region.publishing.held import Publisher
from region.publishing.memory import Memory
from shared.errors import InvalidConfiguration
from shared.signing import load_or_create_key
from shared.store.disk import DiskStore


def build(configuration: RegionConfiguration, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Region:
    """A region process, built but not running: nothing is connected yet. Raises InvalidConfiguration."""
    try:
        configuration.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = DiskStore(configuration.data_dir / "store")
        key = load_or_create_key(configuration.data_dir / "region.key")
    except OSError as error:
        raise InvalidConfiguration(
            f"The directory REGION_DATA_DIR={configuration.data_dir} cannot be used: {error.strerror}."
        ) from error
    engine = create_engine(configuration.database_url)
    publisher = Publisher(key)
    sightings = Sightings(engine, now)
    return Region(
        configuration=configuration,
        engine=engine,
        request_engine=create_engine(configuration.database_url, REQUESTS),
        store=store,
        key=key,
        publisher=publisher,
        topics=Topics(),
        gathered=Gathered(engine),
        memory=Memory(engine, key, grace=timedelta(seconds=configuration.prune_grace_seconds), now=now),
        rack_keys=Keys(engine),
        sightings=sightings,
        importer=Importer(
            engine=engine,
            store=store,
            publisher=publisher,
            parallel_downloads=configuration.parallel_downloads,
            owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            now=now,
        ),
        clock=Clock(engine, store, sightings, timedelta(seconds=configuration.prune_grace_seconds), now),
        now=now,
    )
