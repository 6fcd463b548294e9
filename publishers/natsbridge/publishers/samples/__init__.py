"""Three small services that emit traffic for demos and tests, through the SDK as any service would.

Run one with ``python -m publishers.samples.upload`` (``review``, ``files``). ``SAMPLE_USERS`` names
the users they act for, ``SAMPLE_INTERVAL`` the seconds between their steps.
"""
