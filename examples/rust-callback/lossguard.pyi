from typing import Self

__version__: str

class LossSpike:
    def __new__(cls, factor: float = 3.0) -> Self: ...
    def __lumbre_callback__(self) -> object: ...
