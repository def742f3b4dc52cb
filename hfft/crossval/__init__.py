"""Cross-validation: the folds, their result, and the model made from all of the data after them."""
