"""Files by their SHA-256. `base` is the contract, `disk` keeps them on one file system.

Every store passes the same tests, `tests/unit/test_store.py`.
"""
