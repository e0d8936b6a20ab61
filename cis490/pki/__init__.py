"""The lab's own certificates. Built on `cryptography`; knows nothing of jobs.

`certificates`: keys, requests, issuing, reading. `issuers`: who may issue what. `authority`: the folder with them.
`age`: files encrypted with a passphrase.

root            10 years; its key signs intermediates alone and can lie in a drawer
  clients       3 years, client authentication alone: hosts, operators, readers (30 days)
  servers       3 years, server authentication alone: the proxy in front of the receiver (90 days)
  signing       3 years, a leaf that signs provenance records
"""
