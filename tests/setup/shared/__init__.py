"""What the setup scripts share."""
