"""Surgery on models that hold batch norms: a model goes in, a model comes out."""
