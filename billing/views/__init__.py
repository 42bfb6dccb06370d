"""Pages of billing, one module for each noun."""
