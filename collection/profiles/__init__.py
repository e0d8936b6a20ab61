"""The workload profiles: benign ones, and harmless stand-ins for suspicious behaviour."""

from typing import Final

from collection.profiles.base import Profile
from collection.profiles.benign import BENIGN
from collection.profiles.standins import STAND_INS

PROFILES: Final = {profile.name: profile for profile in (*BENIGN, *STAND_INS)}

__all__ = ["BENIGN", "PROFILES", "STAND_INS", "Profile"]
