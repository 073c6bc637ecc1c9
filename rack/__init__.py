"""The rack: keeps a verified copy of what its region publishes, and serves it to machines whatever happens upstream."""
