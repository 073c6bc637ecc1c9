"""What goes out to others: wheel, Debian packages, container image, and what tells that they are ours.

pins        the part of requirements.lock that one extra needs
moment      the moment that everything is dated with
wheel       the wheel and the source distribution
pages       manual pages and completions, made from the commands
settings    the configuration files, made from the settings
debs        the Debian packages
image, oci  the container image, and the layout it is written in
sbom        the list of the libraries in a release
release     all of it, with checksums
"""
