"""The earlier name of ``headstrip.plugins.validation``, for code that imports it from here."""

from __future__ import annotations

from headstrip.hookspecs import API_VERSION as API_VERSION
from headstrip.plugins.validation import HOOKS as HOOKS
from headstrip.plugins.validation import contract_problem as contract_problem
