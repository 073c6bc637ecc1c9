"""One site for all tests of this folder, in the order in which they stand: a machine that was purged is gone."""

from collections.abc import Iterator

import pytest

from tests.system.base import unable
from tests.system.site import Site, set_up_rack, set_up_region
from tests.system.site import site as make_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site, with a region and two racks that show the newest LTS."""
    if why := unable():
        pytest.skip(why)
    with make_site(tmp_path_factory.mktemp("site")) as made:
        set_up_region(made)
        for rack in made.racks:
            set_up_rack(made, rack)
        made.until_synced()
        yield made
