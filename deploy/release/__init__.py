"""What goes out to others: wheel, Debian packages, container image, and what tells that they are ours.

pins      the part of requirements.lock that one extra needs
"""
