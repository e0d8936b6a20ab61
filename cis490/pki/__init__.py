"""The lab's own certificates: making keys, issuing, reading. Built on `cryptography`; knows nothing of jobs.

root            10 years; its key signs intermediates alone and can lie in a drawer
  clients       3 years, client authentication alone: hosts, operators, readers (30 days)
  servers       3 years, server authentication alone: the proxy in front of the receiver (90 days)
  signing       3 years, a leaf that signs provenance records
"""
