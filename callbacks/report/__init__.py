"""Reports on logged runs, from their logs alone. Neither Keras nor a backend."""
