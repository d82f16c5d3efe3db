"""Jobs: what the command line's verbs do, one module each; every one returns a `Record`."""
