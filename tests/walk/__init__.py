"""A walk over the configuration space: no value may be ignored in silence or end in a traceback.

    python -m tests.walk --all

Every option that ``lit-sdpo fit --print_config`` shows is given values that its type hint calls wrong, out of range or
legal but different, and pairs that a check of the package names together are set at once. Each input has to end in exit
code 2 with one line, or in exit code 0 with other results than the run without it.

:mod:`options` finds the options and their values, :mod:`contexts` the runs in which they matter, :mod:`pairs` what
contradicts itself, :mod:`trial` runs one input in a process of its own, :mod:`results` says what a run has produced.
"""
