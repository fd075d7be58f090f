"""How good a model is: figures, pictures of them, and a report; nothing here needs TensorFlow."""
