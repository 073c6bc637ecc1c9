"""Whatever bytes come from outside, a parser refuses them in its own words or gives something sound.

`targets` names the parsers, what they may raise, and bytes to begin with. `make test` spoils those a few hundred times
each; `python -m tests.fuzz` (`make fuzz`) lets atheris, which sees which lines it reaches, look for as long as it may.
"""
