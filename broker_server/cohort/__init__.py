"""Cohort selection: who is asked to train in a round, and why."""

from __future__ import annotations

from typing import TypeAlias

from broker_server.cohort.at_random import AtRandom
from broker_server.cohort.base import Candidate, Cohort, Selection
from broker_server.cohort.everyone import Everyone
from broker_server.cohort.oort import Oort
from broker_server.cohort.resources import ByResources
from broker_server.cohort.round_robin import RoundRobin

AnyCohort: TypeAlias = Everyone | AtRandom | RoundRobin | ByResources | Oort

__all__ = ["AnyCohort", "Candidate", "Cohort", "Selection"]
