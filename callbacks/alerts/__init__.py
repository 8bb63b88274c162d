"""Rules: what is logged -> Alert. Neither Keras nor TensorFlow nor TensorBoard."""
