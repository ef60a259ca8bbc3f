"""The outside world on loopback: for trials, for demonstrations, and for the tests of whoever uses the bridge.

Serving HTTP needs the extra `sandbox`; importing this package does not.
"""
