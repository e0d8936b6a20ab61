"""CIS490: train each malware-behaviour model at most once across a fleet of machines."""
