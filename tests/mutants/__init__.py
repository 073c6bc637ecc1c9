"""Proof that tests notice when a defence is taken out.

`defences.toml` names every defence, where it stands and which tests must fail without it; `python -m tests.mutants`
(`make mutants`) takes each out in turn. `python -m tests.mutants.small` (`make mutation`) makes every small change it
can think of to the modules that decide and parse. Both work on copies, in a network of their own that leads nowhere.
"""
