"""The composition root: everything a region process consists of is built here and passed down."""

import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from region import keys as region_keys
from region.configuration import RegionConfiguration
from region.database.address import parse
from region.database.connection import REQUESTS, create_engine
from region.database.topics import Gathered, Topics
from region.database.watch import Watch
from region.fleet.keys import Keys
from region.fleet.sightings import Sightings
from region.importing.clock import Clock
from region.importing.importer import Importer
from region.meters import Meters
from region.process import Region
from region.publishing.held import Publisher
from region.publishing.memory import Memory
from region.standing import Standing
from shared.disk import make_directory
from shared.errors import InvalidConfiguration
from shared.store.disk import DiskStore
from shared.systemd import notify


def build(configuration: RegionConfiguration, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Region:
    """A region process, built but not running: nothing is connected yet. Raises InvalidConfiguration."""
    try:
        make_directory(configuration.data_dir)
        store = DiskStore(configuration.data_dir / "store")
    except OSError as error:
        raise InvalidConfiguration(
            f"The directory REGION_DATA_DIR={configuration.data_dir} cannot be used: {error.strerror}."
        ) from error
    keys = region_keys.load(configuration)
    key = keys.signing
    standing = Standing(notify)
    watch = Watch(parse(configuration.database_url), told=standing.database)
    engine = create_engine(configuration.database_url, doubt=watch.doubt)
    publisher = Publisher(key)
    sightings, meters = Sightings(engine, now), Meters()
    return Region(
        configuration=configuration,
        engine=engine,
        request_engine=create_engine(configuration.database_url, REQUESTS, watch.doubt),
        watch=watch,
        standing=standing,
        store=store,
        keys=keys,
        publisher=publisher,
        topics=Topics(),
        gathered=Gathered(engine),
        memory=Memory(engine, key, grace=timedelta(seconds=configuration.prune_grace_seconds), now=now),
        rack_keys=Keys(engine),
        sightings=sightings,
        importer=Importer(
            engine=engine,
            store=store,
            secrets=keys.secrets,
            publisher=publisher,
            parallel_downloads=configuration.parallel_downloads,
            owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            now=now,
            meters=meters,
            ended=standing.imported,
        ),
        meters=meters,
        clock=Clock(engine, store, timedelta(seconds=configuration.prune_grace_seconds), now),
        now=now,
    )
