"""One folder per op: definition, reference, function body, test cases."""
