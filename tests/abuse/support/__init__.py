"""What the staged attacks share."""
