"""What every op, adapter and pass agrees on: op definitions, feature bits, capabilities. Standard library only."""
