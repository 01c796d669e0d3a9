"""It needs a library that does not exist."""

import a_library_that_nobody_has  # noqa: F401
