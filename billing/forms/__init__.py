"""Forms of the billing pages, one module for each noun. The services judge what is meant."""
