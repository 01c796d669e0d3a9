"""What holds for all tests."""

from hypothesis import settings

# A machine that does other things as well is slow now and then; that is no fault of an example.
settings.register_profile("headstrip", deadline=None)
settings.load_profile("headstrip")
