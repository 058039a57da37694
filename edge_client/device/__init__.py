"""What runs on a device before its client can: launcher and installer. Standard library only.

These files travel as one zip application (`provisioning.bundle.program`), apart from the client that they
start, so that a client which does not start can be replaced by the one before.
"""
