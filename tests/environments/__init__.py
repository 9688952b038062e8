"""Packages that the operator builds: their build on the host, and jobs that run with them."""
