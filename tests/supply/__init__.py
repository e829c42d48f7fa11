"""What the project is made of: packages that are locked, audited, and listed for those who install it."""
