"""Find and read the weights file of one build, once."""

from __future__ import annotations

import logging
from dataclasses import replace

from headstrip.factory.selection import Selection
from headstrip.network.checkpoints import refuse_several
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.weights.locating import locate
from headstrip.weights.reading import ReadOptions, WeightsFile, read_weights

_LOGGER = logging.getLogger("headstrip.factory")


class WeightsSource:
    """Finds and reads the file of the weights that a call asks for.

    Attributes:
        selection: The weights.
        stated: The description that the user's own file states; None before it was read.
    """

    def __init__(
        self,
        owner: Plugin,
        spec: BackboneSpec,
        selection: Selection,
        reading: ReadOptions,
        *,
        offline: bool,
    ) -> None:
        """Prepare the reading.

        Args:
            owner: The plugin that builds the network.
            spec: The backbone.
            selection: Its weights.
            reading: How the file is read.
            offline: Whether no socket may be opened.
        """
        self.selection = selection
        self.stated: WeightsEntry | None = None
        self._owner = owner
        self._spec = spec
        self._reading = reading
        self._offline = offline
        self._file: WeightsFile | None = None

    @property
    def has_read(self) -> bool:
        """Whether the file was read."""
        return self._file is not None

    @property
    def is_own(self) -> bool:
        """Whether the file is the user's own."""
        return self.selection.path is not None

    def read(self, limit: int) -> WeightsFile:
        """Return the file, which may hold ``limit`` bytes of tensors."""
        if self._file is not None:
            return self._file
        entry, path, about = self.selection.entry, self.selection.path, self._spec.qualified_name
        how = replace(self._reading, limit=limit)
        if path is not None:
            file = read_weights(path, options=how)
        else:
            assert entry is not None
            how = replace(how, locations=entry.locations, name=f"{about}.{entry.tag}")
            file = read_weights(locate(entry, about, offline=self._offline), entry.sha256, how)
        # A plugin with this hook knows which state dict of a published file to use.
        if path is None and not self._owner.implements("adapt_state_dict"):
            refuse_several(file.content, file.path)
        if path is not None and not self.selection.is_named:
            self.stated = self._description(file)
        self._file = file
        how_read = "mapped" if file.guards else "read into memory"
        _LOGGER.info("%s has its weights from %s, %s", about, file.path, how_read)
        return file

    def forget(self) -> None:
        """Read the file again next time: a network may have changed its tensors."""
        self._file = None

    def _description(self, file: WeightsFile) -> WeightsEntry | None:
        """Return the description that the plugin reads from the user's own file."""
        if not self._owner.implements("describe_file"):
            return None
        stated: WeightsEntry | None = self._owner.call(
            "describe_file", self._spec.qualified_name, loaded=file.content, spec=self._spec
        )
        return stated
