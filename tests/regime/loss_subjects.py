"""The subjects of the loss experiment, by name: what must lose nothing, and the controls, which must lose."""

from __future__ import annotations

from regime.loss_library import Library, Locks
from regime.loss_place import Subject
from regime.loss_sketches import Sketch

CONTROLS = ("copy", "barrier")
SUBJECT = "library"
SUBJECTS: dict[str, Subject] = {name: Sketch(name) for name in CONTROLS}
SUBJECTS |= {SUBJECT: Library(), Locks.name: Locks()}
