"""What is done with finished runs: predicting, comparing, listing, exporting, pushing."""
