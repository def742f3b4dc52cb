"""What the Trainer's loop is given: which examples a step sees, and how its gradient is computed."""
