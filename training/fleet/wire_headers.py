"""The names of the headers that worker, command line and receiver exchange. Imports nothing."""

PROTOCOL = "2"
HEADER_HOST = "X-Lab-Host"
HEADER_PROTOCOL = "X-Fleet-Protocol"
HEADER_CLAIM_REQUEST = "X-Claim-Request"
HEADER_LEASE_TOKEN = "X-Lease-Token"
HEADER_OPERATOR_TOKEN = "X-Operator-Token"
HEADER_SHA256 = "X-Content-SHA256"
