"""Data sets, held in memory, and the specs by which they are named; `__init__.pyi` lists what is imported when used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
