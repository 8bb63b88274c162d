"""What is logged of a run -> a page that tells how it went. Neither Keras nor TF."""
