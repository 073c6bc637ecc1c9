"""Chaos: real processes, real faults, and the invariants after each (`make chaos`, docs/reliability.md).

    invariants  what must hold, looked at from outside: the disk, the database, HTTP
    machine     a client that boots all the time and checks each byte against the mirror
    world       mirror, database, region and rack as processes that can be killed and started
    kill        kill -9 of each of them                     power    power cuts on ext4 and xfs
    disk        ENOSPC and EIO at every index               network  flips, resets, storms, absence, clocks
    model       random schedules of faults (hypothesis)     herd     all racks back at once

Each prints its seed, what it did, and one line at the end; its exit status is 1 when anything was violated.
"""
