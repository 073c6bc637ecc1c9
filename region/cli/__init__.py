"""`bootferry`, the operator's command line: a client of the region's HTTP API and of nothing else.

    main        the tree of commands; every way the program ends passes through it
    exits       exit codes, and which error leads to which
    profile     where a region is and how to prove who asks: files below XDG_CONFIG_HOME, and the environment
    client      the API as these commands see it
    output      tables, JSON and YAML
    words       sizes, times and counts as people read them
    lists       what every list command can do: filter, sort, print in five ways, watch
    suggest     what a shell may complete a word to
    names       images, sources, racks and tokens as they are typed
    plan        what a change of the selection leads to, shown and agreed to
    follow      watching an import: a bar per image on a terminal, plain lines elsewhere
    everything else: one file per noun, its functions are the commands

Modules that are imported to show help or to complete a word load typer and the standard library; what talks to a
region or draws a table is imported when it is needed.
"""
