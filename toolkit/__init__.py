"""The desktop side: data, models, training, pruning, evaluation, reports, and the command line over all packages."""
